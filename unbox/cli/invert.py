"""`unbox invert`."""

from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from unbox.cli.model_options import Group, Mismatch, ModelOptions
from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.models.sampling_options import RunOptions
from unbox.validation import Count, FilePath, Seed, StepIndex, Text, validated

if TYPE_CHECKING:
    from unbox.edit import Edits
    from unbox.edits import Inversion
    from unbox.models import Model
    from unbox.sae import SAE


@validated
class InvertCommand:
    """Your own image as a run of a model: how faithful it is, which features it holds, and edits on it.

    The image is encoded, noised to the level of step --start, and drawn again; what the model's steps lack to
    give it back is kept as corrections. Prints the PSNR with and without them. With --saes it prints the
    strongest features of each block, with --edits it draws the image with the edits. A PNG of the same
    request that is there already is kept; one of another is refused.
    """

    image: Positional[FilePath]
    """The image: turned upright by its EXIF orientation, over white where it is transparent, resized and
    cropped to the model's size (or to --height and --width)."""
    prompt: Text = ""
    """What the image shows; the better it fits, the more of the image is the model's own work."""
    out: FilePath = Path("inverted.png")
    """PNG to write: the image drawn again, with the edits if there are any."""
    start: StepIndex = 0
    """Step that the run begins at: later ones keep more of the image and leave edits less room."""
    seed: Seed = 0
    """Seed of the noise."""
    overwrite: bool = False
    """Replace PNGs of other requests."""
    edits: FilePath | None = None
    """JSON file of edits to apply."""
    saes: FilePath | None = None
    """Folder of SAEs: features are read by them, and edits name theirs."""
    limit: Count | None = None
    """At most so many features of each SAE are printed; needs --saes; None: 5."""
    model_mismatch: Mismatch = "warn"
    sampling: Group[RunOptions] = RunOptions()
    model: Group[ModelOptions] = ModelOptions()

    def run(self) -> None:
        from PIL import ImageOps

        from unbox.edits import invert, load_edits
        from unbox.model_mismatch import check_same_model
        from unbox.models.png_record import holds, png_path, save_png
        from unbox.picture_file import read_picture
        from unbox.run_folder import check_writable_file
        from unbox.sae import load_saes
        from unbox.stopping import unit

        check_writable_file(png_path(self.out))
        saes = {} if self.saes is None else dict(load_saes(self.saes))
        edits = None if self.edits is None else load_edits(self.edits, saes or None)
        picture = read_picture(self.image)
        if edits is not None and not len(edits):
            raise UnboxError(f"{self.edits} holds no edit: leave --edits out, or write some into it")
        model = self.model.load()
        check_same_model(saes, model=model, policy=self.model_mismatch)
        height, width = self.sampling.size(model.size)
        image = ImageOps.fit(picture, (width, height))
        steps, guidance = self.sampling.settled(model.system.steps, model.system.guidance)
        chosen = {"steps": steps, "guidance": guidance, "height": height, "width": width}
        record = {**self.record(model, edits), **chosen}
        there = holds(self.out, record, self.overwrite)
        inversion = invert(
            model, image, self.prompt, steps=steps, start=self.start, guidance=guidance, seed=self.seed
        )
        psnr = {name: f"{value:.1f} dB" for name, value in inversion.fidelity.items()}
        print(f"encoded and decoded: {psnr['vae']}; drawn again: {psnr['run']}, of which the")
        print(f"model alone gives {psnr['model']} (PSNR to the image)")
        for line in strongest(inversion, saes, 5 if self.limit is None else self.limit):
            print(line)
        drawn = inversion.draw(edits)
        with unit(last=True):
            print(f"{self.out} is there already" if there else f"wrote {save_png(drawn, self.out, record)}")

    def record(self, model: "Model", edits: "Edits | None") -> dict[str, JSON]:
        """What decides the image, besides its size, steps and guidance."""
        from activation_store import digest
        from unbox.sae import SAE

        given = {"unet": self.model.unet, "lora": self.model.lora, "dtype": self.model.dtype}
        saes = {edit.source or edit.block: edit.sae for edit in edits or ()}
        digests: dict[str, JSON] = {name: sae.identity for name, sae in saes.items() if isinstance(sae, SAE)}
        return {
            "model": self.model.model,
            "system": model.system.name,
            "model_identity": model.identity,
            **{name: str(value) for name, value in given.items() if value is not None},
            "prompt": self.prompt,
            "seed": self.seed,
            "start": self.start,
            "inverted": self.image.name,
            "image_digest": digest(self.image),
            "edits": edits.to_json() if edits else None,
            **({"saes": digests} if digests else {}),
        }


def strongest(inversion: "Inversion", saes: "dict[str, SAE]", count: int) -> list[str]:
    """A line per SAE: its features with the largest mean code over the image's positions and steps."""
    from unbox.capture import record

    if not saes:
        return []
    blocks = tuple(dict.fromkeys(sae.block for sae in saes.values()))
    with record(inversion.model, blocks) as tape:
        inversion.draw()
    lines = []
    for name, sae in saes.items():
        update = tape.read(sae.block, "update", "cond").float()
        codes = sae.encode(update.reshape(-1, update.shape[-1]).to(sae.W_dec)).dense(sae.latents).mean(0)
        best = codes.topk(min(count, sae.latents))
        shown = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        lines.append(f"{name}: " + ", ".join(f"{sae.block}/{i} {value:.2f}" for i, value in shown))
    return lines
