"""The rows of the benchmark's results, as they are in `results.json`."""

from collections.abc import Mapping
from typing import TypedDict


class BenchRow(TypedDict, total=False):
    """What was measured (the keys up to `size`) and what came out, as far as it applies."""

    factor: str
    value: str
    kind: str
    """Of edit, in rows of `ownership` and `transport`."""
    method: str
    block: str
    blocks: list[str]
    features: dict[str, list[int]]
    """Block -> features that were chosen; a control has none."""
    feature: int
    iou_feature: int
    pool: str
    name: str
    spread: str
    size: int
    strength: float
    success: float
    """Share of cases; as `collateral`, with a 95 % interval."""
    success_low: float
    success_high: float
    collateral: float
    collateral_low: float
    collateral_high: float
    artifacts: float
    """Share of pictures that the second critic cannot place; not in rows of versions before."""
    artifacts_low: float
    artifacts_high: float
    cases: int
    outside: Mapping[str, float]
    """Of an edit under a guard: share of edited places that were outside its limits, by block and limit."""
    area: float
    """Under the trade-off `curve`: a point (strength, success, collateral) for every strength tried."""
    curve: "list[BenchRow]"
    trials: "list[BenchRow]"
    """What was chosen among, with its figures on trial pictures, in the order tried; not in rows of versions
    before."""
    auroc: float
    """As `iou`, on the half of the captions that the feature was not chosen on."""
    chosen_at: float
    """AUROC on the half that it was chosen on."""
    iou: float


class BenchResults(TypedDict, total=False):
    """Everything that was measured."""

    meaning: list[BenchRow]
    """The feature of each block's dictionaries that tells a value best."""
    causation: list[BenchRow]
    """Each method's change towards a value, chosen on trial cases and measured on test cases."""
    removal: list[BenchRow]
    """What ablating features, the SAE's or random ones, does to a value."""
    ownership: list[BenchRow]
    """What a block's whole update carries of a kind of edit."""
    transport: list[BenchRow]
    """What a method carries of a kind of edit."""
    mcc: Mapping[str, float]
    """Of each dictionary, all blocks together; see `factor_match`."""
    reliable: Mapping[str, float]
    """factor=value -> share of unedited images that show it where their caption asks for it."""
