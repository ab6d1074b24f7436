"""`unbox atlas`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unbox.models import Model


@dataclass(frozen=True)
class Atlas:
    """Learn everything about the features of SAEs from an activation store, for the explorer.

    One pass over the store for each SAE. Stopped at any moment, the same line goes on.
    """

    saes: Path
    """Folder of SAEs that `unbox train` wrote."""
    store: Path
    """Activation store whose images show what the features mean."""
    out: Path
    """Folder to write the atlas to."""
    model: str = ""
    """System or folder whose text encoders embed the captions, for search by meaning; default: the store's
    own system; `none` leaves search by meaning out."""
    blocks: tuple[str, ...] = ()
    """Only the SAEs of these blocks; default all."""
    top: int = 20
    """Most active images kept of each feature."""
    device: str = "cpu"
    """Where codes are computed."""

    def run(self) -> None:
        """Build the atlas and say what it holds."""
        from activation_store import Store
        from unbox.atlas import Atlas as Opened
        from unbox.atlas import AtlasPlan, Filter, build
        from unbox.errors import UnboxError
        from unbox.sae import load_saes

        store, saes = Store.open(self.store), load_saes(self.saes, self.device)
        chosen = {name: sae for name, sae in saes.items() if not self.blocks or sae.block in self.blocks}
        if not chosen:
            there = ", ".join(dict.fromkeys(sae.block for sae in saes.values()))
            raise UnboxError(
                f"no SAE in {self.saes} is of {', '.join(self.blocks)}; there are SAEs of {there}"
            )
        build(store, chosen, self.out, plan=AtlasPlan(top=self.top), model=self._encoders(store))
        atlas = Opened.open(self.out)
        found = atlas.search("", Filter(labelled=True), limit=3, order="label score")
        print(f"{len(atlas):,} features of {', '.join(atlas.blocks)} in {self.out}")
        for facts in found:
            print(f"  {facts.name}: {facts.label}")
        print(f"Look at them: unbox app --saes {self.saes} --atlas {self.out}")

    def _encoders(self, store: object) -> "Model | None":
        """The model whose text encoders are used, or None with a word why."""
        from unbox.errors import UnboxError
        from unbox.models import load

        if self.model == "none":
            return None
        if self.model:
            return load(self.model)
        name = store.provenance.get("model", {}).get("system", {}).get("name", "")  # type: ignore[attr-defined]
        try:
            return load(name, download=False)
        except UnboxError as error:
            print(f"Without search by meaning: {error}. Name the model with --model.")
            return None
