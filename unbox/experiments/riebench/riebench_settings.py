"""Every number of RIEBench's protocol."""

from unbox.experiments.critics import check_metrics
from unbox.models.sampling_options import StepOptions
from unbox.validation import Count, Guidance, Real, Seed, Several, Steps, Text, validated

#: Former names, which name results.
FORMER = {"clip": "clip_model"}


@validated
class RiebenchSettings(StepOptions):
    """The protocol. Everything here is part of the results' names."""

    steps: Steps | None = 4
    guidance: Guidance | None = 0.0
    seed: Seed = 42
    """Seed of every image."""
    counts: Several[Count] = (80, 160, 320, 640)
    """Numbers of features carried by SAEs (and random controls)."""
    strengths: Several[Real] = (1.0, 2.0)
    """Strengths (m1) at which features and neurons are carried."""
    neurons: Several[Count] = (640, 2560)
    """Numbers of channels carried."""
    steering: Several[Real] = (0.25, 0.5, 1.0, 2.0)
    """Strengths of steering vectors."""
    metrics: Several[Text] = ("structure",)
    """Distances to the original and to the edited prompt's image: structure, pixels, lpips, clip."""
    clip_model: Text | None = None
    """CLIP model of the metric clip: a Hub id or a folder."""
    masks: Text | None = None
    """Folder of masks, ID_original.png and ID_editing.png; None: from cross-attention."""

    def __post_init__(self) -> None:
        check_metrics(self.metrics, self.clip_model)
