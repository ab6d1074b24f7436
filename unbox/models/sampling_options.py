"""Options of sampling, said once: commands, settings of collecting and tests take them from here."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from unbox.errors import UnboxError
from unbox.validation import BatchSize, Guidance, Real, Side, Steps, Text, Whole, validated

if TYPE_CHECKING:
    from unbox.models.prompt_embeddings import PromptReading

#: Of micro-conditioning: pixels of a side or a place, and a score, which the UNet is only told.
Pixels = Annotated[Whole, Ge(0), Le(2**20)]
Score = Annotated[Real, Ge(-1000), Le(1000)]


#: What a LoRA's layers are multiplied by, and a ControlNet's.
LoraStrength = Annotated[Real, Ge(-10), Le(10)]
ControlStrength = Annotated[Real, Ge(0), Le(10)]


@validated
class PromptOptions:
    """How prompts are read that the text encoders do not read as they are."""

    long_prompts: Literal["cut", "chunks"] = "cut"
    """Prompts over the length that the text encoders read, 77 tokens: cut off, with a warning, or read in
    chunks whose embeddings lie one after the other."""
    prompt_weights: bool = False
    """Read (word:1.2), (word) and [word] as weights of words; a backslash before a bracket: a letter."""

    @property
    def reading(self) -> "PromptReading":
        """How the prompts are read."""
        from unbox.models.prompt_embeddings import PromptReading

        return PromptReading(self.long_prompts == "chunks", self.prompt_weights)

    def unusual(self) -> dict[str, str | bool]:
        """Those that were asked for: records of runs say no others, as they did before there were these."""
        usual, own = vars(PromptOptions()), vars(self)
        return {name: own[name] for name, value in usual.items() if own[name] != value}


def prompt_options(facts: Mapping[str, Any]) -> PromptOptions:
    """How a run's prompts were read, by what it recorded (`PromptOptions.unusual`), a merged store's too.

    Raises UnboxError where the parts of a merged store read theirs in different ways."""
    if parts := facts.get("merged"):
        first, *rest = (prompt_options(part["provenance"]) for part in parts)
        if any(other != first for other in rest):
            raise UnboxError(
                "the parts of this merged store read their prompts in different ways (long_prompts, "
                "prompt_weights): take them one by one"
            )
        return first
    return PromptOptions(**{name: facts[name] for name in vars(PromptOptions()) if name in facts})


@validated
class StepOptions:
    """How an image is sampled; None: as the system says."""

    steps: Steps | None = None
    """Sampling steps; None: the system's own."""
    guidance: Guidance | None = None
    """Scale of classifier-free guidance; None: the system's own."""

    def settled(self, steps: int, guidance: float) -> tuple[int, float]:
        """Steps and guidance, the given ones (the system's) where these options leave them out."""
        given = self.guidance
        return steps if self.steps is None else self.steps, guidance if given is None else given


@validated
class RunOptions(StepOptions):
    """How an image of a size is sampled."""

    height: Side | None = None
    """Height of the image in pixels; None: the system's own."""
    width: Side | None = None
    """Width of the image in pixels; None: the system's own."""

    def size(self, side: int) -> tuple[int, int]:
        """Height and width; `side` where they are not given."""
        return side if self.height is None else self.height, side if self.width is None else self.width


@validated
class SamplingOptions(RunOptions, PromptOptions):
    """How images are generated from prompts."""

    negative_prompt: Text | None = None
    """What not to draw; needs guidance above 1. "" is a text too, and not the same as None."""
    batch_size: BatchSize = 8
    """Images sampled together; changes nothing but rounding, speed and memory."""
