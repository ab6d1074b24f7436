"""Every number that `unbox bench erasure` depends on."""

from typing import Annotated, Literal, get_args

from annotated_types import Ge, Lt

from unbox.ground_truth.bench.trial_settings import TrialSettings
from unbox.validation import Count, Guidance, Real, Several, validated

#: What can be compared.
ErasureMethod = Literal[
    "saeuron", "difference", "swap", "steering", "mean-difference", "linear-probe", "loreft", "k-steering",
    "negative guidance",
]  # fmt: skip


@validated
class ErasureSettings(TrialSettings):
    """What the erasure benchmark does. Everything here is part of the results' names."""

    percentiles: Several[Annotated[Real, Ge(0), Lt(100)]] = (99.0, 99.8)
    """Percentiles of importance tried."""
    multipliers: Several[Real] = (-1.0, -5.0, -20.0)
    """Multipliers of SAeUron's rule tried."""
    sizes: Several[Count] = (1, 4, 16)
    """Numbers of features tried: those by whose firing `swap` finds its places."""
    steered: Several[Real] = (0.5, 1.0, 2.0)
    """Strengths of steering tried, in differences of mean updates."""
    negative_guidance: Several[Guidance] = (1.5, 3.0, 5.0)
    """Guidance tried with the value as the negative prompt."""

    methods: Several[ErasureMethod] = get_args(ErasureMethod)
    """What is compared; those from mean-difference to k-steering are learned, their strengths those of
    steering. Runs over some of them fill the folder of a run over all."""

    @property
    def lists(self) -> tuple[str, ...]:
        """Settings of which at least one is tried."""
        return ("percentiles", "multipliers", "sizes", "steered", "negative_guidance", "methods")
