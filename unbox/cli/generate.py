"""`unbox generate`."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from unbox.cli.model_options import ModelOptions
from unbox.errors import UnboxError

Size = tuple[int, int]


@dataclass(frozen=True)
class MicroOptions:
    """SDXL's micro-conditioning: sizes HEIGHT WIDTH in pixels (default: the image's), crops TOP LEFT."""

    original_size: Size | None = None
    """Size the training image is said to have had before scaling."""
    crop: Size = (0, 0)
    """Where the crop is said to begin."""
    target_size: Size | None = None
    """Size the image is said to be."""
    aesthetic: float | None = None
    """Aesthetic score, read by the refiner (default 6)."""
    negative_original_size: Size | None = None
    """The same for the unconditional branch; each takes the conditional one's value if not given."""
    negative_crop: Size | None = None
    """Crop of the unconditional branch."""
    negative_target_size: Size | None = None
    """Target size of the unconditional branch."""
    negative_aesthetic: float | None = None
    """Aesthetic score of the unconditional branch (default 2.5)."""

    def value(self) -> Any:
        """The same as `unbox.models.Micro`."""
        from unbox.models import Micro

        given = (
            self.negative_original_size,
            self.negative_crop,
            self.negative_target_size,
            self.negative_aesthetic,
        )
        if given == (None,) * 4:
            return Micro(self.original_size, self.crop, self.target_size, self.aesthetic)
        negative = Micro(
            self.negative_original_size or self.original_size,
            self.crop if self.negative_crop is None else self.negative_crop,
            self.negative_target_size or self.target_size,
            self.negative_aesthetic,
        )
        return Micro(self.original_size, self.crop, self.target_size, self.aesthetic, negative)


@dataclass(frozen=True)
class Generate:
    """Make images from prompts, with or without edits, each written as a PNG that records how it was made.

    Several prompts or --count give OUT-0.png, OUT-1.png, ...
    """

    prompt: tuple[str, ...]
    """What to draw; several for several images."""
    out: Path = Path("image.png")
    """PNG to write."""
    seed: int | None = None
    """Seed of the first image of each prompt, the next ones counting up from it; drawn if not given."""
    count: int = 1
    """Images of each prompt."""
    steps: int | None = None
    """Sampling steps; the system's own if not given."""
    guidance: float | None = None
    """Classifier-free guidance; the system's own if not given."""
    guidance_rescale: float = 0.0
    """Share (0 to 1) of the guided prediction scaled back to the conditional one's deviation."""
    negative: str | None = None
    """What not to draw; needs guidance above 1."""
    size: tuple[int, ...] = ()
    """Side in pixels, or HEIGHT WIDTH; the system's own if not given."""
    aspect: str | None = None
    """Aspect ratio WIDTH:HEIGHT, like 16:9: the nearest of the sizes that SDXL was trained on."""
    image: Path | None = None
    """Image to start from, for image-to-image systems (the refiner)."""
    strength: float = 0.3
    """How much of the starting image is redrawn, 0 to 1."""
    edits: Path | None = None
    """JSON file of edits to apply."""
    saes: Path | None = None
    """Folder of the autoencoders whose features the edits name."""
    batch_size: int = 8
    """Images sampled at once; changes nothing but speed and memory."""
    micro: Annotated[MicroOptions, tyro.conf.arg(name="")] = field(default_factory=MicroOptions)
    """Micro-conditioning."""
    model: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    """The model."""

    def run(self) -> int:
        from secrets import randbits

        from unbox.models.png_record import png_path, save_png

        png_path(self.out)
        edits = self.read_edits()
        model = self.model.load()
        height, width = self.pixels(model)
        first = randbits(32) if self.seed is None else self.seed
        jobs = [(prompt, first + i) for prompt in self.prompt for i in range(self.count)]
        call = {
            "steps": model.system.steps if self.steps is None else self.steps,
            "guidance": model.system.guidance if self.guidance is None else self.guidance,
            "guidance_rescale": self.guidance_rescale,
            "height": height,
            "width": width,
            "negative_prompt": self.negative,
        }
        images = model.generate(
            [prompt for prompt, _ in jobs],
            seeds=[seed for _, seed in jobs],
            micro=self.micro.value(),
            image=self.start(),
            strength=self.strength,
            edits=edits,
            batch_size=self.batch_size,
            progress=True,
            **call,
        )
        for i, (image, (prompt, seed)) in enumerate(zip(images, jobs, strict=True)):
            record = {"model": self.model.model, "system": model.system.name, "prompt": prompt, "seed": seed}
            record |= {**call, "edits": edits.to_json() if edits else None, **self.beside()}
            print(f"wrote {save_png(image, numbered(self.out, i, len(jobs)), record)} (seed {seed})")
        return 0

    def beside(self) -> dict[str, Any]:
        """What else decided the images, where it was given: weights, micro-conditioning, starting image."""
        model = self.model
        given = {"unet": model.unet, "lora": model.lora, "dtype": model.dtype, "image": self.image}
        return (
            {name: str(value) for name, value in given.items() if value is not None}
            | ({"strength": self.strength} if self.image else {})
            | ({"micro": asdict(self.micro.value())} if self.micro != MicroOptions() else {})
        )

    def read_edits(self) -> Any:
        """The edits with their autoencoders, or None."""
        if self.edits is None:
            if self.saes is not None:
                raise UnboxError("--saes has no use without --edits FILE, which names features of them")
            return None
        from unbox.edits import load_edits

        if self.saes is None:
            return load_edits(self.edits)
        from unbox.sae import load_saes

        return load_edits(self.edits, load_saes(self.saes))

    def pixels(self, model: Any) -> Size:
        """Height and width of the images."""
        if self.aspect is not None:
            from unbox.models import nearest_bucket

            if self.size:
                raise UnboxError("give --size or --aspect, not both")
            across, down = ratio(self.aspect)
            return nearest_bucket(down, across, side=model.size)
        if len(self.size) > 2:
            raise UnboxError(f"--size takes a side, or HEIGHT WIDTH, not {len(self.size)} numbers")
        height, *rest = self.size or (model.size,)
        return height, rest[0] if rest else height

    def start(self) -> Any:
        """The starting image, or None."""
        if self.image is None:
            return None
        from PIL import Image

        with Image.open(self.image) as image:
            return image.convert("RGB")


def ratio(text: str) -> tuple[float, float]:
    """Width and height of `16:9`."""
    try:
        width, height = (float(part) for part in text.split(":"))
    except ValueError:
        raise UnboxError(f"--aspect is WIDTH:HEIGHT like 16:9, not '{text}'") from None
    return width, height


def numbered(path: Path, index: int, count: int) -> Path:
    """`path`, or with several images `path-0`, `path-1`, ..."""
    return path if count == 1 else path.with_name(f"{path.stem}-{index}{path.suffix}")
