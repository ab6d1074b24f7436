"""What is measured of one block: how much SAEs explain of each system, and what each feature did in each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from activation_store import Rows
from unbox.experiments.diff.activity import (
    Changes,
    PairedActivity,
    SplitActivity,
    SplitChanges,
    image_activity,
    image_groups_of,
)
from unbox.experiments.diff.diff_settings import DiffSettings
from unbox.experiments.tables import Row
from unbox.json_types import JSON
from unbox.sae import SAE, evaluate

#: A change counts where its corrected p, and its q, are below.
ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class BlockChanges:
    """The features of one block in every system."""

    changes: Mapping[str, Changes]
    """System -> its features beside the first system's."""
    split: SplitChanges
    by_step: Mapping[str, tuple[tuple[int, ...], np.ndarray]]
    """System -> its steps, and the mean activity in each, (steps, n)."""
    active: Mapping[str, np.ndarray]
    """System -> the share of places where each feature is active, (n,)."""
    examples: Mapping[str, np.ndarray]
    """System -> images in which each feature changed most, (n, up to 4)."""


def measured_changes(sae: SAE, rows: Mapping[str, Rows], settings: DiffSettings) -> BlockChanges:
    """Every feature's activity in the same images of each system; the first one is compared with the others.

    Memory: (flips + 2 splits) numbers a feature, and the rows of a few images.
    """
    first, *others = rows
    images = list(rows[first].samples)
    pairs = {name: PairedActivity(sae.latents, settings.flips, settings.seed) for name in others}
    split = SplitActivity(sae.latents, settings.splits, settings.seed)
    by_step = {name: np.zeros((len(each.steps), sae.latents)) for name, each in rows.items()}
    active = {name: np.zeros(sae.latents) for name in rows}
    for numbers, updates in image_groups_of(rows, images):
        mean = dict[str, np.ndarray]()
        for name, each in updates.items():
            values, places = image_activity(sae, each)
            by_step[name] += values.sum(0)
            active[name] += places.mean(1).sum(0)
            mean[name] = values.mean(1)
        split.add(numbers, mean[first])
        for name, pair in pairs.items():
            pair.add(numbers, mean[first], mean[name])
    return BlockChanges(
        changes={name: pair.changes() for name, pair in pairs.items()},
        split=split.changes(),
        by_step={name: (rows[name].steps, sums / len(images)) for name, sums in by_step.items()},
        active={name: sums / len(images) for name, sums in active.items()},
        examples={name: pair.examples for name, pair in pairs.items()},
    )


def explained(sae: SAE, rows: Mapping[str, Rows]) -> dict[str, JSON]:
    """System -> FVU of its rows with a 95 % interval over images, active latents of a row, FVU by step."""
    found: dict[str, JSON] = {}
    for name, each in rows.items():
        figures = evaluate(sae, each)
        steps = {str(g.step): g.fvu for g in figures.groups if g.step is not None and g.branch is None}
        interval = figures.fvu_interval
        found[name] = {
            "fvu": figures.fvu,
            "low": figures.fvu if interval is None else interval[0],
            "high": figures.fvu if interval is None else interval[1],
            "l0": figures.l0,
            "by_step": steps,
        }
    return found


def summary_of(found: BlockChanges) -> dict[str, JSON]:
    """System -> how many features gained and lost, and how many do in a random split."""
    split_q = (found.split.q < ALPHA).sum(1)
    largest = np.abs(found.split.t).max(1)
    chance: JSON = {
        "listed": float(split_q.mean()),
        "largest_t": float(np.median(largest)),
        "features": found.split.t.shape[1],
        "splits": len(largest),
    }
    return {"random split": chance, **{name: _counts(each) for name, each in found.changes.items()}}


def _counts(changes: Changes) -> JSON:
    listed, sure = changes.q < ALPHA, changes.p_family < ALPHA
    return {
        "images": changes.images,
        "gained": int((listed & (changes.change > 0)).sum()),
        "lost": int((listed & (changes.change < 0)).sum()),
        "gained_family": int((sure & (changes.change > 0)).sum()),
        "lost_family": int((sure & (changes.change < 0)).sum()),
        "largest_t": float(np.abs(changes.t).max()),
    }


def feature_rows(block: str, first: str, found: BlockChanges) -> list[Row]:
    """A table row of every feature and other system, the most changed first."""
    split_rank = np.median(found.split.ranks, 0) if len(found.split.t) else None
    table: list[Row] = []
    for name, changes in found.changes.items():
        for rank, i in enumerate(changes.order.tolist(), 1):
            row: dict[str, Any] = {"block": block, "system": name, "rank": rank, "feature": f"{block}/{i}"}
            row |= {"first": changes.first[i], "other": changes.other[i], "change": changes.change[i]}
            row |= {"low": changes.low[i], "high": changes.high[i], "t": changes.t[i], "q": changes.q[i]}
            row |= {"p_family": changes.p_family[i]}
            row |= {"active_first": found.active[first][i], "active_other": found.active[name][i]}
            row |= {} if split_rank is None else {"rank_in_random_split": split_rank[i]}
            table.append({key: v.item() if isinstance(v, np.generic) else v for key, v in row.items()})
    return table


def shown_features(found: BlockChanges, first: str, count: int) -> dict[str, JSON]:
    """System -> its most changed features, with their activity by step and the images that show it."""

    def told(name: str, changes: Changes, i: int) -> JSON:
        return {
            "index": i,
            "first": float(changes.first[i]),
            "other": float(changes.other[i]),
            "change": float(changes.change[i]),
            "low": float(changes.low[i]),
            "high": float(changes.high[i]),
            "t": float(changes.t[i]),
            "q": float(changes.q[i]),
            "p_family": float(changes.p_family[i]),
            "steps_first": found.by_step[first][1][:, i].tolist(),
            "steps_other": found.by_step[name][1][:, i].tolist(),
            "images": found.examples[name][i].tolist(),
        }

    return {
        name: [told(name, changes, int(i)) for i in changes.order[:count]]
        for name, changes in found.changes.items()
    }
