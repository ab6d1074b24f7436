"""Which rows of a store a command takes, as options."""

from typing import Literal

from unbox.validation import Some, StepIndex, validated


@validated
class RowFilter:
    """Which of a store's rows are taken."""

    steps: Some[StepIndex] | None = None
    """Steps whose rows are taken, by the scheduler's index; None: all of the store."""
    branches: Some[Literal["cond", "uncond"]] | None = None
    """Branches whose rows are taken; None: all of the store."""
