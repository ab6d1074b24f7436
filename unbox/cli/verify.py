"""`unbox verify`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from unbox.cli.model_options import Group, Mismatch, ModelOptions
from unbox.errors import UnboxError
from unbox.experiments.verify.verify_options import VerifyOptions
from unbox.validation import FilePath, Text, validated

if TYPE_CHECKING:
    from unbox.experiments.verify.run_verify import Verification
    from unbox.models import Model
    from unbox.sae import SAE


@validated
class VerifyCommand:
    """Does unbox do right on this machine with these weights? Minutes, and one page that can be sent back.

    Whether the plain pipeline and ours draw the same bits, edits that change nothing change nothing, the
    noise schedule is its formula's; what each of four blocks adds to a picture; how much of the updates SAEs
    explain, beside what was published or recorded of them; time and memory. Each check passes, fails or is
    not possible here, with the reason. The exit code is 0 where all passed, 1 where one failed, 3 where none
    failed but one was not possible.
    """

    source: Positional[Text | None] = None
    """The model, as --model names it."""
    out: FilePath = Path("verify.html")
    """Page to write: one file with its pictures, its figures in it as JSON."""
    saes: FilePath | None = None
    """Folder of SAEs of the model, ours or of another layout; none: the bundled or, for SDXL Turbo, the
    published ones, which are fetched (210 MB) unless --offline."""
    model_mismatch: Mismatch = "warn"
    options: Group[VerifyOptions] = VerifyOptions()
    model: Group[ModelOptions] = ModelOptions()

    def run(self) -> int:
        from unbox.experiments.verify.run_verify import verify
        from unbox.experiments.verify.subject import Subject
        from unbox.run_folder import check_writable_file

        check_writable_file(self.out)
        options = self.model if self.source is None else replace(self.model, model=self.source)
        given = self._given()
        try:
            model = options.load()
        except UnboxError as error:
            if (found := _absent(options, str(error))) is None:
                raise
            print(error)
            return self._end(found)
        saes = self._checked(given, model)
        chosen = self.options
        if not chosen.prompt and model.system.name.startswith("shapes"):
            from unbox.shapes import prompts

            chosen = replace(chosen, prompt=tuple(each.text for each in prompts(16, seed=5, full=True)))
        return self._end(verify(Subject(model, saes, chosen, fetch=not options.offline)))

    def _given(self) -> "dict[str, SAE]":
        """The SAEs of --saes."""
        from unbox.experiments.verify.sae_checks import read_saes

        return {} if self.saes is None else read_saes(self.saes)

    def _checked(self, given: "dict[str, SAE]", model: "Model") -> "dict[str, SAE]":
        """Those, or the bundled ones of the bundled model; none of another model."""
        from unbox.explorer.open_session import BUNDLED, SYSTEM
        from unbox.model_mismatch import check_same_model
        from unbox.sae import load_saes

        if self.saes is None and model.source == SYSTEM and (BUNDLED / "saes").is_dir():
            return dict(load_saes(BUNDLED / "saes"))
        check_same_model(given, model=model, policy=self.model_mismatch)
        return given

    def _end(self, found: "Verification") -> int:
        from unbox.stopping import unit

        with unit(last=True):
            print(f"{found.counted()}; the page: {found.write(self.out)}")
        return found.code


def _absent(options: ModelOptions, reason: str) -> "Verification | None":
    """What is said of a system that is known and whose weights are not here; None where the mistake is
    another."""
    from unbox.experiments.verify.run_verify import absent
    from unbox.models.devices import find_device
    from unbox.models.hub import present
    from unbox.models.system_table import SYSTEMS

    row = next((row for row in SYSTEMS.values() if options.model in (row.name, row.base)), None)
    if row is None or row.base is None or present(row):
        return None
    return absent(row, reason, find_device(options.device))
