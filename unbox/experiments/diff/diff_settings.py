"""What `unbox diff` is told: the systems, and how they are compared. Values only, no torch."""

import re
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt, Lt

from unbox.errors import FieldError
from unbox.memory_limit import require
from unbox.models.sampling_options import LoraStrength, SamplingOptions, StepOptions
from unbox.sae.plan import RowCount
from unbox.site import DEFAULT_BLOCKS, BlockName
from unbox.validation import Count, FilePath, Name, Real, Seed, Some, StepIndex, Text, parsed, validated

#: Fields of a system that are numbers.
NUMBERS = ("steps", "guidance", "lora_strength")
#: Settings that change no figure.
FREE = ("batch_size",)


@validated(kw_only=True)
class ComparedSystem(StepOptions):
    """One of the systems that are compared."""

    model: Text
    """Name of a system, Hub id, diffusers folder or checkpoint file."""
    name: Name | None = None
    """What it is called; None: after its model, steps and LoRA."""
    system: Text | None = None
    """Sample the weights by this system's settings, or by the system.json beside a LoRA."""
    unet: FilePath | None = None
    """UNet to use in place of the model's."""
    lora: FilePath | None = None
    """LoRA to apply to the model."""
    lora_strength: LoraStrength | None = None
    """What the LoRA is multiplied by; None: 1."""

    @property
    def title(self) -> str:
        """Its name among the others."""
        if self.name is not None:
            return self.name
        words = [_letters(Path(self.model).name)]
        if self.lora is not None:
            words.append(_letters(self.lora.parent.name if self.lora.name == "lora" else self.lora.stem))
        if self.unet is not None:
            words.append(_letters(self.unet.stem))
        words += [f"{self.steps}step"] if self.steps is not None else []
        return "-".join(word for word in words if word)[:100] or "model"


@validated(kw_only=True)
class DiffSettings(SamplingOptions):
    """How systems are compared."""

    blocks: Some[BlockName] = DEFAULT_BLOCKS
    """Blocks whose updates are compared."""
    seed: Seed = 0
    """Seed of the run: of the images, which have the same seeds in every system, and of the SAEs."""
    keep_steps: Some[StepIndex] | None = None
    """Steps to compare of every system, by the scheduler's own numbers from 0; None: all of each."""
    store_dtype: Literal["float16", "bfloat16", "float32", "int8", "float8"] = "float16"
    """Number format of the stores."""
    latents: Count = 5120
    """Latents n of an SAE."""
    k: Count = 10
    """Active latents of a row."""
    tokens: RowCount | None = None
    """Rows that each SAE sees; None: each row once."""
    rows: Count = 4096
    """Rows of a training step."""
    alone: bool = False
    """Train SAEs of each system alone too, and say how much of every other system those explain."""
    crosscoders: bool = False
    """Train a crosscoder of the first system and each other one too: which features are shared, changed, or
    of one alone, with latent scaling. They keep as many steps each."""
    held_out: Annotated[Real, Gt(0), Lt(1)] = 0.25
    """Share of the images that SAEs do not learn from, by a hash of their numbers; figures are of those."""
    flips: Annotated[Count, Lt(2**20)] = 1000
    """Random exchanges of the two systems of each image: how large the largest change is by chance."""
    splits: Annotated[Count, Lt(2**16)] = 20
    """Random splits of the first system's images in two, which are compared as two systems would be."""
    shown: Count = 20
    """Features of each block and system in the report."""

    def __post_init__(self) -> None:
        if self.k > self.latents:
            raise FieldError("", "k", self.k, f"k is at most the latents, {self.latents:,}")
        size = (self.flips + 2 * self.splits + 16) * self.latents * 8
        require(size, f"comparing {self.latents:,} latents with {self.flips:,} flips, {self.splits:,} splits")


def read_system(text: str, door: str = "a system") -> ComparedSystem:
    """`MODEL,steps=4,guidance=2,lora=FOLDER,lora_strength=1,unet=FILE,system=ROW,name=NAME`: a model, and
    after commas what is not as its system has it. Raises UnboxError for anything else."""
    model, *rest = text.split(",")
    given: dict[str, str | int | float] = {"model": model}
    for part in rest:
        name, equals, value = part.partition("=")
        if not equals or name in given:
            rule = "should be MODEL, and after commas each of steps=, guidance=, lora=, name=, ... once"
            raise FieldError(door, "models", text, rule)
        given[name] = _number(value) if name in NUMBERS else value
    if not model:
        raise FieldError(door, "models", text, "should begin with a model")
    return parsed(ComparedSystem, given, f"models: {text[:60]!r}")


def read_systems(texts: tuple[str, ...], door: str = "diff") -> tuple[ComparedSystem, ...]:
    """At least two systems, of different names."""
    found = tuple(read_system(text, door) for text in texts)
    if len(found) < 2:
        raise FieldError(door, "models", list(texts), "should be two systems at least")
    titles = [each.title for each in found]
    if twice := next((title for title in titles if titles.count(title) > 1), None):
        raise FieldError(door, "models", twice, "names two systems: give them names, MODEL,name=NAME")
    return found


def store_names(places: tuple[str, ...]) -> dict[str, str]:
    """Name -> store, at least two: each is called as its folder is. Raises UnboxError for two of one name."""
    if len(places) < 2:
        raise FieldError("", "stores", list(places), "should be two stores at least")
    names = [_letters(place.rstrip("/").rpartition("/")[2]) or "store" for place in places]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise FieldError("", "stores", twice, "names two stores: their folders' names should differ")
    return dict(zip(names, places, strict=True))


def _number(text: str) -> str | int | float:
    """A number that is typed; other text stays, for the field's rule to refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _letters(text: str) -> str:
    """What of a text a name may hold."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("_.-")
