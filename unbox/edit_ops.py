"""What an edit can do: one row per op, with its rule. A new op is a new row."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EditOp:
    """One op. Its rule is weighted by the edit's mask: x + mask (rule(x, value, amount) - x)."""

    subjects: tuple[str, ...]
    """What it can be of: `feature`, `direction`, `update`."""
    rule: Callable[..., Any]
    """(x, value, amount) -> what x becomes: plain arithmetic, for numbers and arrays. x: the coefficient of a
    feature or direction, or the block's update; amount: what a value of 1 stands for, the coefficient's unit
    or, for an update, a vector or the SAE's reconstruction."""
    of_update: bool = False
    """x is the update, also where the subject is a feature or a direction."""
    neutral: float | None = None
    """The value at which nothing changes, if there is one."""
    has_unit: bool = False
    """The value is in units of something, so that it says how much is put in."""
    reconstructs: bool = False
    """The amount is the SAE's reconstruction, so that an SAE is needed."""
    swaps: bool = False
    """The amount is vectors of places where the feature does not fire, and only places where it fires
    change."""
    adds: bool = False
    """It adds the same whatever x is: it can be laid out once, and subtracted on the other branch."""

    @property
    def has_threshold(self) -> bool:
        """Whether `above` means something: the op depends on a coefficient."""
        return self.swaps or (not self.of_update and not self.adds)


OPS = {
    "add": EditOp(
        ("feature", "direction"), lambda x, value, amount: x + value * amount,
        neutral=0.0, has_unit=True, adds=True,
    ),
    "scale": EditOp(("feature", "direction", "update"), lambda x, value, amount: x * value, neutral=1.0),
    "set": EditOp(("feature", "direction"), lambda x, value, amount: value * amount, has_unit=True),
    "replace": EditOp(
        ("feature", "direction"), lambda x, value, amount: value * amount, of_update=True, has_unit=True
    ),
    "swap": EditOp(
        ("feature",), lambda x, value, amount: x + value * (amount - x),
        of_update=True, swaps=True, neutral=0.0,
    ),
    "reconstruct": EditOp(
        ("update",), lambda x, value, amount: amount - (amount - x) * (1 - value),
        of_update=True, reconstructs=True,
    ),
}  # fmt: skip


def ops_of(subject: str) -> tuple[str, ...]:
    """Names of the ops of a kind of subject."""
    return tuple(name for name, op in OPS.items() if subject in op.subjects)
