"""One call of `generate` as values: its options, what it samples with, and each of its images."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from PIL import Image
from pydantic import PlainValidator

from unbox.errors import FieldError, UnboxError
from unbox.models.conditioning import Micro
from unbox.models.hooks import Attachable, as_hook
from unbox.models.sampling_options import ControlStrength, LoraStrength, PromptOptions
from unbox.models.start_images import StartImage
from unbox.models.systems import System
from unbox.prompt import Prompt
from unbox.validation import (
    BatchSize,
    Guidance,
    Seed,
    Several,
    Share,
    Side,
    Steps,
    Text,
    checked,
    validated,
)

Prompts = str | Prompt | Sequence[str | Prompt]

#: Options under their former names.
RENAMED = {"instruments": "hooks"}


def _attached(value: object) -> tuple[Attachable | None, ...] | None:
    """Edits or hooks, each of which can be attached; `Edits` is one, though it is iterable."""
    if value is None:
        return None
    edits: tuple[Any, ...] = tuple(value) if _is_list(value) else (value,)  # type: ignore[arg-type]  # a list
    for edit in edits:
        if edit is not None:
            as_hook(edit)
    return edits


def _hooks(value: object) -> object:
    return tuple(hook for hook in _attached(value) or () if hook is not None)


def _pictures(value: object) -> object:
    """Starting images, one for each image or one for all; an array is one where it has three axes."""
    several = _is_list(value) and getattr(value, "ndim", 4) == 4
    images: tuple[Any, ...] = tuple(value) if several else (value,)  # type: ignore[arg-type]  # a list
    for image in images:
        if image is None:
            continue
        sides = getattr(image, "size" if isinstance(image, Image.Image) else "shape", (0,))
        if not isinstance(image, StartImage) or 0 in sides:
            raise ValueError("should be an image of PIL, an array or a tensor, or a list of them")
    return None if value is None else images


def _strengths(value: object) -> object:
    """LoRA strengths, one mapping for all images or one for each; None: as loaded."""
    given = (value,) if value is None or isinstance(value, Mapping) else value
    if not _is_list(given):
        raise ValueError("should be a mapping of LoRA names to strengths, or a list of them")
    found = []
    for each in given:  # type: ignore[attr-defined]  # a list
        if each is not None and not (
            isinstance(each, Mapping) and all(isinstance(name, str) for name in each)
        ):
            raise ValueError("should be a mapping of LoRA names to strengths, or a list of them")
        rule = LoraStrength  # of each number
        found.append(
            None if each is None else {n: checked(rule, f"lora_strengths[{n!r}]", x) for n, x in each.items()}
        )
    return None if value is None else tuple(found)


def _is_list(value: object) -> bool:
    """Lists, tuples, ranges and arrays are one value per image; composed edits are one value."""
    return isinstance(value, list | range) or type(value) is tuple or getattr(value, "ndim", 0) > 0


if TYPE_CHECKING:
    Seeds = Sequence[int | None] | None
    Texts = str | Sequence[str | None] | None
    Micros = Micro | Sequence[Micro | None] | None
    EditsOfImages = Attachable | Sequence[Attachable | None] | None
    StartImages = StartImage | Sequence[StartImage] | None
    Hooks = Sequence[Attachable]
    LoraStrengths = Mapping[str, float] | Sequence[Mapping[str, float] | None] | None
else:
    Seeds = Several[Seed | None] | None
    Texts = Several[Text | None] | None
    Micros = Several[Micro | None] | None
    EditsOfImages = Annotated[tuple, PlainValidator(_attached)]
    StartImages = Annotated[tuple, PlainValidator(_pictures)]
    Hooks = Annotated[tuple, PlainValidator(_hooks)]
    LoraStrengths = Annotated[tuple, PlainValidator(_strengths)]


@validated(kw_only=True)
class Call(PromptOptions):
    """The options of `generate`. Lists hold a value for each image; single values are for every image."""

    seed: Seed | None = None
    """Of every image, a whole number from 0 to 2^64 - 1; without `seed` and `seeds`, seeds are drawn."""
    seeds: Seeds = None
    """One for each image."""
    steps: Steps | None = None
    """Steps, guidance and size come from the system where not given."""
    guidance: Guidance | None = None
    """Scale of classifier-free guidance."""
    guidance_rescale: Share = 0.0
    """phi of arXiv 2305.08891."""
    height: Side | None = None
    """Pixels."""
    width: Side | None = None
    """Pixels."""
    negative_prompt: Texts = None
    """What not to draw; needs guidance above 1. "" is a text like any other: only None is guided away from
    zeros, where the model's pipeline says so."""
    micro: Micros = None
    """SDXL's micro-conditioning."""
    image: StartImages = None
    """What the images start from, pictures of one size; `height` and `width` resize and crop."""
    strength: Share | None = None
    """How much of the starting image is sampled again, 0 to 1; None: 0.3, under a mask all."""
    mask: StartImages = None
    """Where `image` is drawn anew (inpainting): white; pictures, or arrays (height, width) in 0..1."""
    control: StartImages = None
    """What the model's ControlNet follows: pictures of edges, depth, poses, as it was trained on."""
    control_strength: ControlStrength = 1.0
    """How much the ControlNet steers, 0 to 10."""
    lora_strengths: LoraStrengths = None
    """LoRA adapter -> its strength in this call, in the place of the one it was loaded with."""
    edits: EditsOfImages = None
    """An edit, None, or one for each image."""
    hooks: Hooks = ()
    """What attaches for all images."""
    batch_size: BatchSize = 8
    """Images sampled together; changes nothing but rounding."""
    progress: bool = False
    """Show a bar."""
    wait: bool = True
    """Wait while another thread has the model; False: UnboxError that names it."""
    output: Literal["pil", "latent", "np"] = "pil"
    """"pil" images, "np" arrays (height, width, 3) in 0..1, or "latent" tensors (4, height/8, width/8)."""

    def __post_init__(self) -> None:
        if self.seed is not None and self.seeds is not None:
            raise UnboxError("give seed= (for every image) or seeds= (one each), not both")


@dataclass(frozen=True)
class Sampling:
    """What a call samples with: its options, and the system's settings where it leaves them out."""

    system: System
    call: Call
    steps: int
    guidance: float
    height: int
    width: int

    @property
    def strength(self) -> float:
        """How much of starting images is sampled again."""
        given = self.call.strength
        return given if given is not None else 0.3 if self.call.mask is None else 1.0

    @classmethod
    def of(cls, call: Call, system: System, side: int, unit: int) -> "Sampling":
        """`side`: the native square's, in pixels; `unit`: sides are multiples of it. UnboxError if not."""
        height, width = (side if given is None else given for given in (call.height, call.width))
        for name, length in (("height", height), ("width", width)):
            if length % unit:
                raise FieldError("generate", name, length, f"should be a multiple of {unit} for this model")
        steps = system.steps if call.steps is None else call.steps
        guidance = system.guidance if call.guidance is None else call.guidance
        return cls(system, call, steps, guidance, height, width)


@dataclass(frozen=True)
class ImageCall:
    """What differs between the images of one call."""

    prompt: str
    seed: int
    negative: str | None
    micro: Micro
    edit: Attachable | None
    image: StartImage | None
    mask: StartImage | None = None
    control: StartImage | None = None
    lora_strengths: Mapping[str, float] | None = None


def image_calls(prompts: Prompts, call: Call) -> list[ImageCall]:
    """One value per image: lists side by side, single values repeated. UnboxError for lists that disagree."""
    given: dict[str, Any] = {
        "prompt": prompts if _is_list(prompts) else (prompts,),
        "seed": (call.seed,) if call.seeds is None else call.seeds,
        "negative_prompt": call.negative_prompt,
        "micro": call.micro,
        "edit": call.edits,
        "image": call.image,
        "mask": call.mask,
        "control": call.control,
        "lora_strengths": call.lora_strengths,
    }
    lists = {name: [None] if value is None else list(value) for name, value in given.items()}
    if empty := [name for name, value in lists.items() if not value]:
        raise UnboxError(f"the list for {', '.join(empty)} is empty; there is nothing to sample")
    lengths = {name: len(value) for name, value in lists.items() if len(value) != 1}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} of {name}" for name, count in lengths.items())
        raise UnboxError(f"lists of different lengths: {counts}; give one value, or one for each image")
    count = max([1, *lengths.values()])
    columns = [values if len(values) == count else values * count for values in lists.values()]
    images = []
    for prompt, seed, negative, micro, edit, *others in zip(*columns, strict=True):
        text = prompt.text if isinstance(prompt, Prompt) else checked(Text, "prompt", prompt, "generate")
        seed = secrets.randbits(32) if seed is None else seed
        images.append(ImageCall(text, seed, negative, micro or Micro(), edit, *others))
    return images
