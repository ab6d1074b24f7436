"""Every number that `unbox bench shapes` depends on."""

from typing import Literal

from unbox.ground_truth.bench.trial_settings import TrialSettings
from unbox.validation import Count, Real, Several, validated

#: What can be compared with the SAE's features.
MethodName = Literal[
    "untrained", "neurons", "pca", "factors", "steering", "mean-difference", "linear-probe", "loreft",
    "k-steering", "single-block", "cleanest", "guard", "channel-guard", "swap", "guarded-swap",
]  # fmt: skip
#: Settings that choose what is measured, and decide no answer.
CHOOSING = ("values", "methods")

#: Former names, which name results.
FORMER = {"prompts": "captions"}


@validated
class BenchSettings(TrialSettings):
    """What the benchmark does. Everything here is part of the results' names."""

    captions: Count = 800
    """Captions, held out, whose updates are probed."""
    together: Several[Count] = (2, 4)
    """Numbers of those blocks that are edited together."""
    sizes: Several[Count] = (1, 8, 32)
    """Numbers of features tried, in each block that is edited."""
    strengths: Several[Real] = (1.0, 2.0, 4.0)
    """Strengths tried for each value, in differences of the mean maps."""
    pairs: Count = 12
    """Pairs of captions of each kind of edit."""
    transported: Several[Count] = (8, 32, 128)
    """Numbers of features that transport carries."""
    moved: Several[Real] = (1.0, 2.0)
    """Strengths of transport."""
    methods: Several[MethodName] = ("untrained", "neurons", "pca", "steering")
    """What the SAE's features and random ones are compared with; `factors` are groups of its features,
    `mean-difference` to `k-steering` are learned; `single-block` is the SAE's best edit of one block alone,
    and the last five are its chosen edit made with fewer artifacts. Runs over some of them fill the folder of
    a run over all."""

    @property
    def images(self) -> int:
        """Images that are held in memory, at most."""
        return 6 * (self.trial_cases + self.test_cases) + 2 * 9 * self.pairs

    @property
    def lists(self) -> tuple[str, ...]:
        """Settings of which at least one is tried."""
        return ("together", "sizes", "strengths", "transported", "moved")
