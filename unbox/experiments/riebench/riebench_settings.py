"""Every number of RIEBench's protocol."""

from dataclasses import dataclass

from unbox.errors import UnboxError
from unbox.models.sampling_options import StepOptions

#: Former names, which name results.
FORMER = {"clip": "clip_model"}


@dataclass(frozen=True)
class RiebenchSettings(StepOptions):
    """The protocol. Everything here is part of the results' names."""

    steps: int | None = 4
    guidance: float | None = 0.0
    seed: int = 42
    """Seed of every image."""
    counts: tuple[int, ...] = (80, 160, 320, 640)
    """Numbers of features carried by SAEs (and random controls)."""
    strengths: tuple[float, ...] = (1.0, 2.0)
    """Strengths (m1) at which features and neurons are carried."""
    neurons: tuple[int, ...] = (640, 2560)
    """Numbers of channels carried."""
    steering: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    """Strengths of steering vectors."""
    metrics: tuple[str, ...] = ("structure",)
    """Distances to the original and to the edited prompt's image: structure, pixels, lpips, clip."""
    clip_model: str | None = None
    """CLIP model of the metric clip: a Hub id or a folder."""
    masks: str | None = None
    """Folder of masks, ID_original.png and ID_editing.png; None: from cross-attention."""

    def __post_init__(self) -> None:
        if self.clip_model is not None and "clip" not in self.metrics:
            raise UnboxError("a CLIP model is for the metric clip: name it among the metrics")
