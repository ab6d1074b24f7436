"""`unbox invert`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from unbox.cli.model_options import ModelOptions


@dataclass(frozen=True)
class Invert:
    """Your own image as a run of a model: how faithful it is, which features it holds, and edits on it.

    The image is encoded, noised to the level of step --start, and drawn again; what the model's steps lack to
    give it back is kept as corrections. Prints the PSNR with and without them. With --saes it prints the
    strongest features of each block, with --edits it draws the image with the edits.
    """

    image: Annotated[Path, tyro.conf.Positional]
    """The image; resized and cropped to the model's size (or --size)."""
    prompt: str = ""
    """What it shows; the better it fits, the more of the image is the model's own work."""
    out: Path = Path("inverted.png")
    """PNG to write: the image drawn again, with the edits if there are any."""
    steps: int | None = None
    """Sampling steps; the system's own if not given."""
    start: int = 0
    """Step that the run begins at: later ones keep more of the image and leave edits less room."""
    guidance: float | None = None
    """Classifier-free guidance; the system's own if not given."""
    seed: int = 0
    """Seed of the noise."""
    size: int | None = None
    """Side in pixels; the model's own if not given."""
    edits: Path | None = None
    """JSON file of edits to apply."""
    saes: Path | None = None
    """Folder of the autoencoders: features are read by them, and edits name theirs."""
    top: int = 5
    """Features printed for each block."""
    model: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    """The model."""

    def run(self) -> None:
        """Invert, report, draw."""
        from PIL import Image, ImageOps

        from unbox.edits import invert, load_edits
        from unbox.models.png_record import png_path, save_png
        from unbox.sae import load_saes

        png_path(self.out)
        saes = {} if self.saes is None else dict(load_saes(self.saes))
        edits = None if self.edits is None else load_edits(self.edits, saes or None)
        model = self.model.load()
        side = self.size or model.size
        with Image.open(self.image) as opened:
            image = ImageOps.fit(opened.convert("RGB"), (side, side))
        inversion = invert(
            model,
            image,
            self.prompt,
            steps=self.steps,
            start=self.start,
            guidance=self.guidance,
            seed=self.seed,
        )
        told = inversion.fidelity
        print(f"encoded and decoded: {told['vae']:.1f} dB; drawn again: {told['run']:.1f} dB, of which the")
        print(f"model alone gives {told['model']:.1f} dB (PSNR to the image)")
        for line in strongest(inversion, saes, self.top):
            print(line)
        record = {"prompt": self.prompt, "seed": self.seed, "steps": inversion.steps, "start": self.start}
        record |= {"inverted": self.image.name, "edits": edits.to_json() if edits else None}
        print(f"wrote {save_png(inversion.draw(edits), self.out, record)}")


def strongest(inversion: Any, saes: dict[str, Any], count: int) -> list[str]:
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
