"""One call of `generate` as values: its options, what it samples with, and each of its images."""

import inspect
import secrets
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import wraps
from itertools import islice
from typing import Any, Concatenate, ParamSpec, TypeVar

from unbox.errors import UnboxError
from unbox.models.conditioning import Micro
from unbox.models.hooks import Attachable
from unbox.models.seeds import seed_of
from unbox.models.start_images import StartImage
from unbox.models.systems import System
from unbox.prompt import Prompt
from unbox.validation import Text, checked

OUTPUTS = ("pil", "latent", "np")

Prompts = str | Prompt | Sequence[str | Prompt]

#: Options under their former names.
RENAMED = {"instruments": "hooks"}


@dataclass(frozen=True, kw_only=True)
class Call:
    """The options of `generate`. Lists hold a value for each image; single values are for every image."""

    seed: int | None = None
    """Of every image, a whole number from 0 to 2^64 - 1; without `seed` and `seeds`, seeds are drawn."""
    seeds: Sequence[int] | None = None
    """One for each image."""
    steps: int | None = None
    """Steps, guidance and size come from the system where not given."""
    guidance: float | None = None
    """Scale of classifier-free guidance."""
    guidance_rescale: float = 0.0
    """phi of arXiv 2305.08891."""
    height: int | None = None
    """Pixels."""
    width: int | None = None
    """Pixels."""
    negative_prompt: str | Sequence[str] | None = None
    """What not to draw; needs guidance above 1."""
    micro: Micro | Sequence[Micro] | None = None
    """SDXL's micro-conditioning."""
    image: StartImage | Sequence[StartImage] | None = None
    """What image-to-image systems start from, pictures of one size; `height` and `width` resize and crop."""
    strength: float = 0.3
    """How much of the starting image is sampled again, 0 to 1."""
    edits: Attachable | Sequence[Attachable | None] | None = None
    """An edit, None, or one for each image."""
    hooks: Sequence[Attachable] = ()
    """What attaches for all images."""
    batch_size: int = 8
    """Images sampled together; changes nothing but rounding."""
    progress: bool = False
    """Show a bar."""
    wait: bool = True
    """Wait while another thread has the model; False: UnboxError that names it."""
    output: str = "pil"
    """"pil" images, "np" arrays (height, width, 3) in 0..1, or "latent" tensors (4, height/8, width/8)."""

    def __post_init__(self) -> None:
        if self.seed is not None and self.seeds is not None:
            raise UnboxError("give seed= (for every image) or seeds= (one each), not both")
        if self.batch_size < 1:
            raise UnboxError(f"batches of {self.batch_size} images hold none; at least one is needed")
        if self.output not in OUTPUTS:
            raise UnboxError(f"output '{self.output}' is not one of {', '.join(OUTPUTS)}")


@dataclass(frozen=True)
class Sampling:
    """What a call samples with: its options, and the system's settings where it leaves them out."""

    system: System
    call: Call
    steps: int
    guidance: float
    height: int
    width: int

    @classmethod
    def of(cls, call: Call, system: System, side: int, unit: int) -> "Sampling":
        """`side`: the native square's, in pixels; `unit`: sides are multiples of it. UnboxError if not."""
        height, width = (side if given is None else given for given in (call.height, call.width))
        if height % unit or width % unit or height < unit or width < unit:
            raise UnboxError(f"{height} x {width} pixels cannot be sampled; both must be multiples of {unit}")
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


def image_calls(prompts: Prompts, call: Call) -> list[ImageCall]:
    """One value per image: lists side by side, single values repeated. UnboxError for lists that disagree."""
    given: dict[str, Any] = {
        "prompt": prompts,
        "seed": call.seed if call.seeds is None else call.seeds,
        "negative": call.negative_prompt,
        "micro": call.micro,
        "edit": call.edits,
        "image": call.image,
    }
    lists = {name: list(value) for name, value in given.items() if _is_list(value)}
    if empty := [name for name, value in lists.items() if not value]:
        raise UnboxError(f"the list for {', '.join(empty)} is empty; there is nothing to sample")
    lengths = {name: len(value) for name, value in lists.items() if len(value) != 1}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} of {name}" for name, count in lengths.items())
        raise UnboxError(f"lists of different lengths: {counts}; give one value, or one for each image")
    count = max([1, *lengths.values()])
    columns = [(lists.get(name, [value]) * count)[:count] for name, value in given.items()]
    images = []
    for prompt, seed, negative, micro, edit, image in zip(*columns, strict=True):
        text = prompt.text if isinstance(prompt, Prompt) else checked(Text, "prompt", prompt)
        negative = None if negative is None else checked(Text, "negative_prompt", negative)
        seed = secrets.randbits(32) if seed is None else seed_of(seed)
        images.append(ImageCall(text, seed, negative, micro or Micro(), edit, image))
    return images


def _is_list(value: object) -> bool:
    """Lists, tuples, ranges and arrays are one value per image; composed edits are one value."""
    return isinstance(value, list | range) or type(value) is tuple or getattr(value, "ndim", 0) > 0


P = ParamSpec("P")
M = TypeVar("M")
R = TypeVar("R")


def with_options(
    options: Callable[P, Call],
) -> Callable[[Callable[[M, Prompts, Call], R]], Callable[Concatenate[M, Prompts, P], R]]:
    """Decorator: `f(model, prompts, call)` takes the fields of `Call` as keywords, in its signature too.

    Raises TypeError, naming the options, for one that there is not.
    """
    names = [field.name for field in fields(Call)]

    def decorate(function: Callable[[M, Prompts, Call], R]) -> Callable[Concatenate[M, Prompts, P], R]:
        @wraps(function)
        def generate(model: M, prompts: Prompts, *args: P.args, **given: P.kwargs) -> R:
            for old, new in RENAMED.items():
                if old in given:
                    warnings.warn(f"{old}= is now called {new}=", DeprecationWarning, stacklevel=2)
                    given[new] = given.pop(old)
            if unknown := [name for name in given if name not in names]:
                near = "".join(f" (is it {name}?)" for name in get_close_matches(unknown[0], names, n=1))
                asked = f"{function.__name__}() has no option {unknown[0]}{near}"
                raise TypeError(f"{asked}; the options are {', '.join(names)}")
            return function(model, prompts, options(*args, **given))

        signature = inspect.signature(function)
        parameters = [*islice(signature.parameters.values(), 2), *inspect.signature(Call).parameters.values()]
        generate.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return generate

    return decorate
