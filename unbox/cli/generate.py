"""`unbox generate`."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from unbox.cli.model_options import Group, Mismatch, ModelOptions
from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.memory_limit import require
from unbox.models.prompt_weights import weighted_texts
from unbox.models.sampling_options import ControlStrength, Pixels, PromptOptions, SamplingOptions, Score
from unbox.validation import Count, FilePath, Pair, Real, Seed, Share, Some, Text, validated

if TYPE_CHECKING:
    from PIL import Image

    from unbox.edit import Edits
    from unbox.models import Micro, Model

Size = tuple[int, int]

#: Bytes that an image to be made takes in the list of them, at least.
LISTED = 1000


def _aspect(value: str) -> str:
    ratio(value)
    return value


Aspect = Annotated[Text, AfterValidator(_aspect)]


def ratio(text: str) -> tuple[float, float]:
    """Width and height of WIDTH:HEIGHT. Raises ValueError for anything else."""
    across, _, down = text.partition(":")
    try:
        found = float(across), float(down)
    except ValueError:
        found = 0.0, 0.0
    if not all(0 < side < 1e9 for side in found):
        raise ValueError("should be WIDTH:HEIGHT like 16:9")
    return found


@validated
class MicroOptions:
    """SDXL's micro-conditioning: sizes HEIGHT WIDTH in pixels (default: the image's), crops TOP LEFT."""

    original_size: Pair[Pixels] | None = None
    """Size that the image is said to have had before scaling, HEIGHT WIDTH."""
    crop: Pair[Pixels] = (0, 0)
    """Corner at which the crop is said to begin, TOP LEFT."""
    target_size: Pair[Pixels] | None = None
    """Size that the image is said to have, HEIGHT WIDTH."""
    aesthetic: Score | None = None
    """Aesthetic score, which the refiner reads; None: 6."""
    negative_original_size: Pair[Pixels] | None = None
    """Original size of the unconditional branch; None, here and below: as the conditional branch."""
    negative_crop: Pair[Pixels] | None = None
    """Crop of the unconditional branch."""
    negative_target_size: Pair[Pixels] | None = None
    """Target size of the unconditional branch."""
    negative_aesthetic: Score | None = None
    """Aesthetic score of the unconditional branch; None: 2.5."""

    def value(self) -> "Micro":
        """The same as `unbox.models.Micro`."""
        from unbox.models import Micro

        given = vars(self)
        cond = {name: given[name] for name in ("original_size", "crop", "target_size", "aesthetic")}
        uncond = {name: given[f"negative_{name}"] for name in cond}
        if all(value is None for value in uncond.values()):
            return Micro(*cond.values())
        usual = {**cond, "aesthetic": None}
        uncond = {name: usual[name] if value is None else value for name, value in uncond.items()}
        return replace(Micro(*cond.values()), negative=Micro(*uncond.values()))


@validated
class GenerateCommand:
    """Make images from prompts, with or without edits, each written as a PNG that records how it was made.

    Several prompts or --count give OUT-0.png, OUT-1.png, ... An image that is there already is kept if it
    is the one asked for, so that the same line goes on after a stop; one of another request is refused.
    """

    prompt: Some[Text]
    """What the image shows; several for several images."""
    out: FilePath = Path("image.png")
    """PNG to write."""
    seed: Seed | None = None
    """Seed of the first image of each prompt, the next ones counting up from it; None: drawn."""
    count: Count = 1
    """Images of each prompt."""
    aspect: Aspect | None = None
    """Aspect ratio WIDTH:HEIGHT, like 16:9, in place of --height and --width: the nearest of the sizes that
    SDXL was trained on."""
    guidance_rescale: Share = 0.0
    """Share (0 to 1) of the guided prediction scaled back to the conditional one's deviation."""
    image: FilePath | None = None
    """Picture to start from: turned upright by its EXIF orientation, over white where it is transparent,
    resized and cropped where a size is given."""
    strength: Share | None = None
    """How much of the starting image is redrawn, 0 to 1; None: 0.3, under a mask all."""
    mask: FilePath | None = None
    """Picture that is white where the starting image is drawn anew (inpainting)."""
    control: FilePath | None = None
    """Picture of edges, depth, poses or the like that the ControlNet follows."""
    controlnet: Text | None = None
    """ControlNet for --control: a diffusers folder or a Hub id."""
    control_strength: ControlStrength = 1.0
    """How much the ControlNet steers, 0 to 10."""
    overwrite: bool = False
    """Replace PNGs of other requests."""
    edits: FilePath | None = None
    """JSON file of edits to apply."""
    edit_strength: Real = 1.0
    """How much of the edits: 0 is none, 1 is what the file says, 2 twice as much."""
    saes: FilePath | None = None
    """Folder of SAEs whose features the edits name."""
    model_mismatch: Mismatch = "warn"
    sampling: Group[SamplingOptions] = SamplingOptions()
    micro: Group[MicroOptions] = MicroOptions()
    model: Group[ModelOptions] = ModelOptions()

    def run(self) -> None:
        from secrets import randbits

        from unbox.model_mismatch import check_same_model
        from unbox.models.image_memory import require_pictures
        from unbox.models.png_record import png_path
        from unbox.run_folder import check_writable_file
        from unbox.sae import SAE
        from unbox.stopping import Stopped

        check_writable_file(png_path(self.out))
        count, asked = len(self.prompt) * self.count, self.sampling
        require(count * LISTED, f"a list of {count:,} images", "generate")
        require_pictures(min(count, asked.batch_size), asked.height or 8, asked.width or 8)
        if asked.prompt_weights:
            for text in (*self.prompt, asked.negative_prompt or ""):
                weighted_texts(text)
        edits, start, guides = self.read_edits(), self.picture(self.image), self.guides()
        model = self.model.load()
        if self.controlnet is not None:
            from unbox.models import load_controlnet

            load_controlnet(model, self.controlnet, download=not self.model.offline)
        saes = {edit.source or edit.block: edit.sae for edit in edits or () if isinstance(edit.sae, SAE)}
        check_same_model(saes, model=model, policy=self.model_mismatch)
        first = randbits(32) if self.seed is None else self.seed
        try:
            self.draw(model, edits, start, guides, first)
        except Stopped as stop:
            if self.seed is None:
                stop.options = ("--seed", str(first))
            raise

    def draw(
        self,
        model: "Model",
        edits: "Edits | None",
        start: "Image.Image | None",
        guides: dict[str, Any],
        first: int,
    ) -> None:
        """The images that are not there yet, a batch at a time, each batch written before the next."""
        from tqdm import tqdm

        from unbox.models.png_record import holds, save_png
        from unbox.models.prompt_length import counted, warn_of_cut
        from unbox.stopping import unit

        chosen, micro = self.chosen(model, start), self.micro.value()
        if not (reading := self.sampling.reading).chunks:
            warn_of_cut(model, map(reading.text, [*self.prompt, self.sampling.negative_prompt or ""]))
        jobs = self.jobs(model, edits, first, chosen)
        there = {path for path, record in jobs if holds(path, record, self.overwrite)}
        for path in sorted(there):
            print(f"{path} is there already")
        with counted(), tqdm(total=len(jobs), initial=len(there), desc="images", unit="image") as bar:
            # The batches of an undisturbed run: another number of images in one would round otherwise.
            for begin in range(0, len(jobs), self.sampling.batch_size):
                batch = jobs[begin : begin + self.sampling.batch_size]
                if there.issuperset(path for path, _ in batch):
                    continue
                images = model.generate(
                    [record["prompt"] for _, record in batch],
                    seeds=[record["seed"] for _, record in batch],
                    edits=edits,
                    micro=micro,
                    image=start,
                    strength=self.strength,
                    **guides,
                    **chosen,
                )
                with unit():
                    for image, (path, record) in zip(images, batch, strict=True):
                        if path not in there:
                            bar.write(f"wrote {save_png(image, path, record)} (seed {record['seed']})")
                            bar.update()

    def jobs(
        self, model: "Model", edits: "Edits | None", first: int, chosen: dict[str, Any]
    ) -> list[tuple[Path, dict[str, Any]]]:
        """The file of each image, and the record of all that decides it."""
        shared: dict[str, JSON] = {"model": self.model.model, "system": model.system.name}
        shared["model_identity"] = model.identity
        unsaid = ("batch_size", *vars(PromptOptions()))  # the latter where they were given: `beside`
        shared |= {name: value for name, value in chosen.items() if name not in unsaid}
        shared |= {"edits": edits.to_json() if edits else None, **self.beside(edits)}
        seeded = [(prompt, first + i) for prompt in self.prompt for i in range(self.count)]
        names = [f"{self.out.stem}-{i}{self.out.suffix}" for i in range(len(seeded))]
        return [
            (
                self.out.with_name(name) if len(names) > 1 else self.out,
                {**shared, "prompt": text, "seed": seed},
            )
            for name, (text, seed) in zip(names, seeded, strict=True)
        ]

    @property
    def redrawn(self) -> float:
        """How much of a starting image is redrawn."""
        usual = 0.3 if self.mask is None else 1.0
        return usual if self.strength is None else self.strength

    def chosen(self, model: "Model", start: "Image.Image | None") -> dict[str, Any]:
        """How to sample, the system's settings where none are given: arguments of `Model.generate`."""
        height, width = self.pixels(model.size, start)
        steps, guidance = self.sampling.settled(model.system.steps, model.system.guidance)
        settled = replace(self.sampling, steps=steps, guidance=guidance, height=height, width=width)
        return {**vars(settled), "guidance_rescale": self.guidance_rescale}

    def beside(self, edits: "Edits | None") -> dict[str, JSON]:
        """What else decided the images, where it was given: weights, SAEs, micro-conditioning, starting
        image."""
        from activation_store import digest
        from unbox.sae import SAE

        model = self.model
        names = ("unet", "lora", "vae", "dtype")
        given = {**{name: getattr(model, name) for name in names}, "image": self.image}
        found: dict[str, JSON] = {name: str(value) for name, value in given.items() if value is not None}
        found |= {"add_lora": [str(path) for path in model.add_lora]} if model.add_lora else {}
        found |= {"lora_strength": list(model.lora_strength)} if model.lora_strength else {}
        saes = {edit.source or edit.block: edit.sae for edit in edits or ()}
        digests: dict[str, JSON] = {name: sae.identity for name, sae in saes.items() if isinstance(sae, SAE)}
        if digests:
            found["saes"] = digests
        if self.image is not None:
            found |= {"strength": self.redrawn, "image_digest": digest(self.image)}
        if self.mask is not None:
            found |= {"mask": str(self.mask), "mask_digest": digest(self.mask)}
        if self.control is not None:
            found |= {"control": str(self.control), "control_digest": digest(self.control)}
            found |= {"controlnet": self.controlnet, "control_strength": self.control_strength}
        found |= self.sampling.unusual()
        if self.micro != MicroOptions():
            found["micro"] = asdict(self.micro.value())
        return found

    def read_edits(self) -> "Edits | None":
        """The edits with their autoencoders, or None."""
        from unbox.edits import load_edits
        from unbox.edits.strength import at_strength
        from unbox.sae import load_saes

        if self.edits is None:
            return None
        edits = load_edits(self.edits, None if self.saes is None else load_saes(self.saes))
        if not len(edits):
            raise UnboxError(f"{self.edits} holds no edit: leave --edits out, or write some into it")
        return edits if self.edit_strength == 1 else at_strength(edits, self.edit_strength)

    def pixels(self, side: int, start: "Image.Image | None" = None) -> Size:
        """Height and width of the images; of the starting image, or `side`, where they are not given."""
        asked = self.sampling
        if self.aspect is None:
            height, width = (side, side) if start is None else (start.height, start.width)
            return asked.size(height)[0], asked.size(width)[1]
        from unbox.models import nearest_bucket

        across, down = ratio(self.aspect)
        return nearest_bucket(down, across, side=side)

    def picture(self, path: Path | None) -> "Image.Image | None":
        """A picture, or None."""
        from unbox.picture_file import read_picture

        return None if path is None else read_picture(path)

    def guides(self) -> dict[str, Any]:
        """What a run from pictures is guided by: arguments of `Model.generate`."""
        from PIL import Image

        from unbox.picture_file import read_mask

        given: dict[str, Any] = {}
        if self.mask is not None:
            given["mask"] = Image.fromarray((255 * read_mask(self.mask)).round().astype("uint8"))
        if self.control is not None:
            given |= {"control": self.picture(self.control), "control_strength": self.control_strength}
        return given
