"""Rows that are kept from training: whole images, chosen by their numbers."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Lt

from activation_store import AlignedRows, JoinedRows, Rows
from unbox.json_types import JSON
from unbox.sae.row_source import ArrayRows, RowSource, source_of
from unbox.sae.side_by_side import SideBySide
from unbox.validation import Real, checked

#: Part of the images or rows kept from training.
HeldOut = Annotated[Real, Ge(0), Lt(1)]
#: Part of the images kept from training, unless told.
HELD_OUT = 0.02
#: How images are chosen: by a hash of their numbers, or, in runs of versions before, the last ones.
Choice = Literal["hash", "last"]


def chosen_by_hash(numbers: np.ndarray, part: float) -> np.ndarray:
    """(n,) bool: about `part` of the numbers, each by itself, so that a store that grows keeps its choice.

    The hash is SplitMix64's (Steele, Lea and Flood, 2014), over 2^64.
    """
    z = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).astype(np.float64) < part * 2.0**64


def split(
    sources: dict[str, RowSource],
    blocks: set[str],
    held_out: float | Mapping[str, RowSource],
    choice: Choice = "hash",
) -> tuple[dict[str, RowSource], dict[str, RowSource | None], JSON]:
    """Rows to learn from and rows to test on, by block, and what is recorded of these: other rows, or a share
    of the images (or rows). Where the hash takes none of few images, or all, there are none to test on."""
    if isinstance(held_out, Mapping):
        others = {block: source_of(held_out, block) for block in sorted(blocks)}
        return sources, {**others}, {block: identity(rows) for block, rows in others.items()}
    part = checked(HeldOut, "held_out", held_out, "train")
    learn, test = dict(sources), dict[str, RowSource | None].fromkeys(blocks)
    for block in blocks & set(sources):
        source = sources[block]
        if not part or not isinstance(source, Rows | JoinedRows | AlignedRows | ArrayRows | SideBySide):
            continue
        if isinstance(source, ArrayRows | SideBySide):
            numbers = np.arange(len(source) if isinstance(source, ArrayRows) else source.units)
        else:
            numbers = np.asarray(source.samples)
        if choice == "hash":
            kept = chosen_by_hash(numbers, part)
        else:
            kept = np.arange(len(numbers)) >= len(numbers) - int(len(numbers) * part)
        for rows, some in ((learn, ~kept), (test, kept)) if 0 < kept.sum() < len(kept) else ():
            if isinstance(source, ArrayRows):
                rows[block] = ArrayRows(source.array[some], source.block)
            elif isinstance(source, SideBySide):
                rows[block] = source.cut(numbers[some])
            else:
                rows[block] = source.filter(samples=numbers[some].tolist())
    return learn, test, part


def identity(source: RowSource) -> dict[str, Any]:
    """What tells a block's rows from others: their number, width, and digest where they have one."""
    facts = {"rows": len(source), "width": source.width}
    if hasattr(source, "digest"):
        return {**facts, "digest": str(source.digest)}
    return {**facts, "sum": float(np.float64(source.sample(64, 0).sum(dtype=np.float64)))}
