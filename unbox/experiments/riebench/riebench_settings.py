"""Every number of RIEBench's protocol."""

from typing import Literal

from unbox.experiments.critics import check_metrics
from unbox.models.sampling_options import RunOptions
from unbox.validation import Count, Guidance, Real, Seed, Several, Steps, Text, validated

#: Former names, which name results.
FORMER = {"clip": "clip_model"}


@validated
class RiebenchSettings(RunOptions):
    """The protocol. Everything here is part of the results' names."""

    steps: Steps | None = 4
    guidance: Guidance | None = 0.0
    seed: Seed = 42
    """Seed of every image."""
    counts: Several[Count] = (80, 160, 320, 640)
    """Numbers of features carried by SAEs (and random controls)."""
    strengths: Several[Real] = (1.0, 2.0)
    """Strengths (m1) at which features and neurons are carried."""
    neurons: Several[Count] = (5_000, 10_000, 20_000, 40_000, 80_000)
    """Numbers of hidden units of the blocks' feed-forward layers carried."""
    neuron_steps: Literal["first", "mean"] = "first"
    """Steps by which neurons are scored: the first, or the mean of all."""
    steering: Several[Real] = (0.25, 0.5, 1.0, 2.0)
    """Strengths of steering vectors."""
    metrics: Several[Text] = ("structure",)
    """Distances to the original and to the edited prompt's image: structure, pixels, lpips, clip; and
    density: which images are artifacts."""
    clip_model: Text | None = None
    """CLIP model of the metric clip: a Hub id or a folder."""
    masks: Text | None = None
    """Folder of masks, ID_original.png and ID_editing.png; None: from
    cross-attention, which is not RIEBench's and is said in the report."""

    def __post_init__(self) -> None:
        check_metrics(self.metrics, self.clip_model)
