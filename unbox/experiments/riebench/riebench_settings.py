"""Every number of RIEBench's protocol."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RiebenchSettings:
    """The protocol. Everything here is part of the results' names."""

    steps: int = 4
    """Sampling steps."""
    guidance: float = 0.0
    """Guidance scale."""
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
    clip: str | None = None
    """CLIP model for the metric clip: a Hub id or a folder."""
    masks: str | None = None
    """Folder of masks, ID_original.png and ID_editing.png; None: from cross-attention."""
