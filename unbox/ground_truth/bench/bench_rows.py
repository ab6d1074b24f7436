"""The rows of the benchmark's results, as they are in `results.json`."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict


class Rates(TypedDict):
    """Success and collateral over cases, with intervals."""

    success: float
    success_low: float
    success_high: float
    collateral: float
    collateral_low: float
    collateral_high: float
    cases: int


class Point(Rates):
    """The rates of an edit at one strength."""

    strength: float


class MeaningRow(TypedDict):
    """The feature of a block's dictionary that tells a value best, chosen on half of the captions."""

    block: NotRequired[str]
    method: NotRequired[str]
    factor: str
    value: str
    auroc: float
    """On the other half, as `iou`."""
    feature: NotRequired[int]
    pool: NotRequired[str]
    chosen_at: NotRequired[float]
    """AUROC on the half that it was chosen on."""
    iou_feature: NotRequired[int]
    iou: NotRequired[float]


class ChosenChange(Point):
    """The change that was chosen on trial cases, at its strength and as a whole curve on test cases."""

    blocks: list[str]
    spread: str
    size: int
    name: str
    features: NotRequired[dict[str, list[int]]]
    """Block -> features; a control has none that were chosen."""
    area: float
    curve: list[Point]


class CausationRow(ChosenChange):
    """A method's change towards a value."""

    factor: str
    value: str
    method: str


class RemovalRow(Rates):
    """What ablating features, the SAE's or random ones, does to a value."""

    factor: NotRequired[str]
    value: NotRequired[str]
    method: str
    blocks: list[str]
    size: int


class OwnershipRow(Rates):
    """What a block's whole update carries of a kind of edit."""

    kind: str
    block: str


class TransportRow(Rates):
    """What a method carries of a kind of edit."""

    kind: str
    method: str


class TransportResults(TypedDict):
    """What was measured of kinds of edits."""

    ownership: list[OwnershipRow]
    transport: list[TransportRow]


class BenchResults(TransportResults):
    """Everything that was measured."""

    meaning: list[MeaningRow]
    causation: list[CausationRow]
    removal: list[RemovalRow]
    reliable: Mapping[str, float]
    """factor=value -> share of unedited images that show it where their caption asks for it."""
