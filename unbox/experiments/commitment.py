"""When and where an edit has to act: its effect by the step at which it begins, by the step at which it
ends, and by block; and the smallest window of steps and set of blocks that keep most of it.

A model commits to what it draws at some step: an edit that ends before it is drawn over, and one that
begins after it comes too late. Nothing here knows a model: `measure` gives the effects of edits on pictures
that play no part in what is reported.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from unbox.edit import Edits
from unbox.edits.strength import of_blocks, within_steps
from unbox.json_types import JSON
from unbox.statistics import Interval, bootstrap

#: From edits to the effect on each picture: (n,).
Measure = Callable[[Edits], np.ndarray]

#: Share of the whole effect that a choice keeps, and steps at which curves have a point, at most.
KEPT, POINTS = 0.9, 8


@dataclass(frozen=True)
class Commitment:
    """Effects of an edit over pictures."""

    steps: int
    whole: Interval
    """Of the edit as it is."""
    begins: Mapping[int, Interval]
    """Step -> effect of what acts from it on."""
    ends: Mapping[int, Interval]
    """Step -> effect of what acts before it."""
    blocks: Mapping[str, Interval]
    """Block -> effect of what acts in it alone, where the edit has several."""

    @property
    def rows(self) -> list[dict[str, JSON]]:
        """A table: each point of each curve."""
        found: list[dict[str, JSON]] = [{"curve": "whole", "at": "", **self.whole.columns("effect")}]
        curves: dict[str, Mapping[int, Interval] | Mapping[str, Interval]] = {
            "begins": self.begins, "ends": self.ends, "block": self.blocks,
        }  # fmt: skip
        for curve, points in curves.items():
            found += [
                {"curve": curve, "at": str(at), **effect.columns("effect")} for at, effect in points.items()
            ]
        return found


def commitment(measure: Measure, edits: Edits, steps: int) -> Commitment:
    """The curves of an edit in a run of so many steps: 2 x min(steps - 1, POINTS) measurements, one for
    each block of several, and one of the whole."""
    points = sorted({round(at) for at in np.linspace(1, steps - 1, min(steps - 1, POINTS))})
    blocks = edits.blocks if len(edits.blocks) > 1 else ()

    def effect(some: Edits) -> Interval:
        return bootstrap(measure(some)) if len(some) else Interval(0.0, 0.0, 0.0)

    return Commitment(
        steps,
        effect(edits),
        {at: effect(within_steps(edits, at, steps)) for at in points},
        {at: effect(within_steps(edits, 0, at)) for at in points},
        {block: effect(of_blocks(edits, (block,))) for block in blocks},
    )


def choose_steps(measure: Measure, edits: Edits, curves: Commitment, kept: float = KEPT) -> tuple[int, int]:
    """The shortest window [start, stop) of steps found that keeps `kept` of the whole effect.

    From the last step at which it can begin to the first at which it can end, if these two together keep
    as much (they are measured); else the shorter of the windows with one open end.
    """
    least = kept * curves.whole.mean
    start = max((at for at, effect in curves.begins.items() if effect.mean >= least), default=0)
    stop = min((at for at, effect in curves.ends.items() if effect.mean >= least), default=curves.steps)
    both = (start, stop)
    if start < stop and both not in ((0, curves.steps), (start, curves.steps), (0, stop)):
        inside = within_steps(edits, *both)
        if len(inside) and float(np.mean(measure(inside))) >= least:
            return both
    return (start, curves.steps) if curves.steps - start <= stop else (0, stop)


def choose_blocks(measure: Measure, edits: Edits, curves: Commitment, kept: float = KEPT) -> tuple[str, ...]:
    """The fewest blocks, taken in the order of their effect alone, that together keep `kept` of the whole."""
    if not curves.blocks:
        return edits.blocks
    order = sorted(curves.blocks, key=lambda block: -curves.blocks[block].mean)
    for count in range(1, len(order)):
        some = tuple(order[:count])
        effect = (
            curves.blocks[some[0]].mean if count == 1 else float(np.mean(measure(of_blocks(edits, some))))
        )
        if effect >= kept * curves.whole.mean:
            return some
    return edits.blocks
