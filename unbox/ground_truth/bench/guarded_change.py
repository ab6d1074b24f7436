"""The SAE's chosen edit kept nearer to what the model itself computes: smaller, under guards, or as a swap.

Success of a plain edit may be bought with artifacts. Each arm here acts in the blocks of the SAE's chosen
edit; its strength is the one with fewest artifacts among those that succeed as often as any on trial
pictures, within 3 points. `cleanest` has the same choice without any guard, so that what a guard does can be
told from what choosing does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from unbox.edit import Edits, Feature
from unbox.edits.apply import EditHook, guarded
from unbox.edits.channel_guard import ChannelGuard, channel_limits
from unbox.edits.guard import Guard, norm_limits
from unbox.ground_truth.bench.bench_inputs import QUANTILES, BenchInputs
from unbox.ground_truth.bench.bench_rows import BenchRow
from unbox.ground_truth.bench.methods import Joint, carriers
from unbox.ground_truth.bench.trade_off import TOLERATED, area_under, on_trials, outcome_rates
from unbox.ground_truth.effects import Cases, measure
from unbox.ground_truth.factor_scores import Value
from unbox.shapes import Scene
from unbox.shapes.where import edit_mask

#: Strengths tried beside those of the settings, as shares of each; shares of a swap.
SHARES, SWAPPED = (0.7, 1.0), (0.5, 0.75, 1.0)

#: Success that may be given up for fewer artifacts.
GIVEN_UP = 0.03

#: Artifacts are rarer than failures: strengths are chosen on so many times the trial pictures, at most.
MORE_TRIALS = 4

#: Vectors that swap draws from.
DONORS = 256

#: From a strength to the edits of an image of a scene.
Recipe = Callable[[Scene, float], Edits]


@dataclass(frozen=True, eq=False)
class GuardedChange:
    """One arm for one value."""

    edits: Recipe
    strengths: Sequence[float]
    guard: Guard | None = None

    def recipe(self, strength: float) -> tuple[Callable[[Scene], EditHook], Guard | None]:
        """The hooks of images, and the guard that counts while they act."""
        guard = None if self.guard is None else replace(self.guard)
        return (lambda scene: _hook(self.edits(scene, strength), guard)), guard

    def measured(self, bench: BenchInputs, cases: Cases, value: Value, strength: float) -> BenchRow:
        """What came out at a strength, and how often the guard acted: `outside`."""
        recipe, guard = self.recipe(strength)
        row: BenchRow = {
            "strength": strength,
            **outcome_rates(measure(bench.subject, cases, recipe, value)),
        }
        return row if guard is None else {**row, "outside": guard.report()}


def _hook(edits: Edits, guard: Guard | None) -> EditHook:
    return EditHook(edits) if guard is None else guarded(edits, guard)


def guarded_change(
    bench: BenchInputs, arm: str, value: Value, of_sae: BenchRow, joint: Joint, few: Cases, many: Cases
) -> BenchRow:
    """An arm, its strength chosen on the cases `few`, measured on the cases `many`.

    `of_sae`, `joint`: the SAE's chosen edit, as a row and as the change itself.
    """
    blocks, size = of_sae["blocks"], of_sae["size"]
    guard = _guard(bench, arm, blocks)
    if arm.endswith("swap"):
        change = GuardedChange(partial(swapping, bench, blocks, size, value), SWAPPED, guard)
    else:
        strengths = sorted({share * s for s in bench.settings.strengths for share in SHARES})
        change = GuardedChange(joint.edits, strengths, guard)
    tried = [change.measured(bench, few, value, strength) for strength in change.strengths]
    best = cleanest(tried)
    shown = SWAPPED if arm.endswith("swap") else bench.settings.strengths
    found = {s: change.measured(bench, many, value, s) for s in (*shown, best["strength"])}
    curve = [found[strength] for strength in shown]
    about: BenchRow = {
        "blocks": blocks,
        "spread": of_sae["spread"],
        "size": size,
        "name": f"{arm} of the SAE",
    }
    return {
        **about,
        **found[best["strength"]],
        "area": area_under(curve),
        "curve": curve,
        "features": joint.features,
        "trials": on_trials(({}, point) for point in tried),
    }


def cleanest(tried: Sequence[BenchRow]) -> BenchRow:
    """Of what was tried the one with fewest artifacts whose success is within 3 points of the best, all of
    tolerable collateral where any is; of equals the weakest."""
    fine = [row for row in tried if row["collateral"] <= TOLERATED] or list(tried)
    reach = max(row["success"] for row in fine) - GIVEN_UP
    enough = [row for row in fine if row["success"] >= reach - 1e-9]
    return min(enough, key=lambda row: (row["artifacts"], row["strength"]))


def swapping(
    bench: BenchInputs, blocks: Sequence[str], size: int, value: Value, scene: Scene, strength: float
) -> Edits:
    """Where features of the scene's own value fire, and the factor is edited, updates give way to recorded
    ones of places that show the value wanted; none where the scene has it."""
    factor, wanted = value
    shown = scene.factors()[factor]
    if shown == wanted:
        return Edits()
    edits = Edits()
    for block in blocks:
        features = carriers(bench.dictionaries[block], bench.mean_maps(block), (factor, shown), size)
        donors = bench.learned.showing(block, value, DONORS)
        if features and len(donors):
            subject = Feature(block, features, sae=bench.dictionaries[block]["sae"])
            where, seed = edit_mask(factor, scene), bench.settings.seed
            edits += subject.swap(strength, donors=donors, where=where, seed=seed)
    return edits


def _guard(bench: BenchInputs, arm: str, blocks: Sequence[str]) -> Guard | None:
    """The arm's guard, by what the benchmark's own captions were recorded with."""
    if arm in ("cleanest", "swap"):
        return None
    limits = {block: norm_limits(bench.store[block], QUANTILES) for block in blocks}
    if arm == "guard":
        return Guard(limits)
    channels = {block: channel_limits(bench.store[block], QUANTILES) for block in blocks}
    whitened = {block: bench.whitened(block) for block in blocks}
    return ChannelGuard(limits, channels=channels, whitened=whitened)
