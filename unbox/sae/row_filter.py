"""Which rows of a store a command takes, as options."""

from typing import Literal

from unbox.validation import Some, StepIndex, validated


@validated
class RowFilter:
    """Which of a store's rows are taken."""

    steps: Some[StepIndex] | None = None
    """Steps to keep, by the scheduler's own numbers from 0; None: all."""
    branches: Some[Literal["cond", "uncond"]] | None = None
    """Branches to keep; None: all of the store."""
