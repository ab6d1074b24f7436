"""Rows of one block in several systems, as one SAE learns them."""

from collections.abc import Mapping, Sequence

import numpy as np

from activation_store import JoinedRows, Rows, Store
from unbox.errors import UnboxError
from unbox.sae.held_out import chosen_by_hash


def joint_rows(parts: Mapping[str, Rows]) -> JoinedRows:
    """The rows of a block in each system, one after the other. Systems keep steps of their own, each of
    which is a part; where one has fewer rows they come several times, so that systems weigh about the same.
    """
    most, found = max(map(len, parts.values())), list[Rows]()
    for rows in parts.values():
        times = max(1, round(most / max(1, len(rows))))
        found += [rows.filter(steps=step) for step in rows.steps] * times
    return JoinedRows(tuple(found), other_steps=True)


def divided(numbers: Sequence[int], part: float) -> tuple[list[int], list[int]]:
    """Images that are learned from, and those that are not, by a hash of their numbers.

    Raises UnboxError for fewer than three of either: an interval takes several images.
    """
    every = np.asarray(numbers)
    kept = chosen_by_hash(every, part)
    if min(kept.sum(), (~kept).sum()) < 3:
        raise UnboxError(
            f"of {len(every):,} images {int(kept.sum())} are held out: figures and their intervals take some "
            "more; give more prompts, or another --held-out"
        )
    return every[~kept].tolist(), every[kept].tolist()


def kept_steps(store: Store, block: str, asked: Sequence[int] | None) -> tuple[int, ...]:
    """The steps of a block that are compared: all that the store keeps, or those that are asked for."""
    return store[block].steps if asked is None else tuple(asked)


def rows_of(
    stores: Mapping[str, Store],
    block: str,
    images: Sequence[int] | None,
    steps: Sequence[int] | None = None,
) -> dict[str, Rows]:
    """System -> the rows of a block in some images and steps (None: all), those with the caption."""
    found = {}
    for name, store in stores.items():
        rows = store[block].filter(samples=images, steps=kept_steps(store, block, steps))
        found[name] = rows.filter(branches="cond") if "cond" in rows.branches else rows
    return found
