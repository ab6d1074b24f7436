"""The run that `unbox models NAME --plan` counts, as options."""

from typing import Literal

from unbox.errors import UnboxError
from unbox.site import BlockName
from unbox.validation import BatchSize, Count, Guidance, Several, Side, Steps, validated


@validated
class PlannedRun:
    """The run that is planned."""

    batch: BatchSize = 8
    """Images sampled together."""
    size: Side | None = None
    """Side of the square images in pixels; None: the system's own."""
    guidance: Guidance | None = None
    """Scale of classifier-free guidance; None: the system's own."""
    steps: Steps | None = None
    """Sampling steps; None: the system's own."""
    blocks: Several[BlockName] = ()
    """Blocks whose updates are recorded, and edited by an SAE each."""
    latents: Count = 5120
    """Latents n of an SAE."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the weights; None: float16 on a card, float32 without."""
    card: bool = True
    """Compute on a card; without one everything is in memory."""
    offload: Literal["model", "sequential"] | None = None
    """Keep parts on the CPU until they are needed: slower, less accelerator memory."""

    def __post_init__(self) -> None:
        if self.offload is not None and not self.card:
            raise UnboxError("offload moves parts between memory and a card; --no-card plans without one")
