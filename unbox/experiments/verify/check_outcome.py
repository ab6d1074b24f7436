"""What a check says: passed, failed, or not possible here; always with the reason."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

from unbox.json_types import JSON

Verdict = Literal["pass", "fail", "not possible here"]

#: Exit codes of `unbox verify`: all passed, some failed, none failed but some could not be made.
PASSED, FAILED, NOT_POSSIBLE = 0, 1, 3


@dataclass(frozen=True)
class Picture:
    """A picture of the evidence, with what it shows."""

    image: Image.Image
    caption: str


@dataclass(frozen=True)
class CheckFinding:
    """What a check found: figures by name, and pictures in rows."""

    verdict: Verdict
    reason: str
    """What was seen; of a check that is not possible here, why."""
    figures: Mapping[str, JSON] = field(default_factory=dict)
    strips: tuple[tuple[Picture, ...], ...] = ()


@dataclass(frozen=True)
class CheckOutcome:
    """A check that was made, or could not be."""

    name: str
    asks: str
    """What it asks, in a sentence."""
    finding: CheckFinding
    seconds: float

    def to_json(self) -> dict[str, JSON]:
        """JSON object of all but the pictures."""
        found = self.finding
        words: dict[str, JSON] = {"name": self.name, "verdict": found.verdict, "reason": found.reason}
        return {**words, "figures": dict(found.figures), "seconds": round(self.seconds, 2)}


def exit_code(outcomes: tuple[CheckOutcome, ...]) -> int:
    """0 where all passed, 1 where one failed, 3 where none failed but one was not possible here."""
    verdicts = {outcome.finding.verdict for outcome in outcomes}
    return FAILED if "fail" in verdicts else NOT_POSSIBLE if "not possible here" in verdicts else PASSED


def judged(right: bool, good: str, bad: str, **figures: JSON) -> CheckFinding:
    """A finding that passed or failed, with the reason of either."""
    return CheckFinding("pass" if right else "fail", good if right else bad, figures)


def not_possible(reason: str, **figures: JSON) -> CheckFinding:
    """A finding of a check that cannot be made here."""
    return CheckFinding("not possible here", reason, figures)
