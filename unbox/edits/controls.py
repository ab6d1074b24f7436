"""The control of what is said about edits: the same edits on other features, drawn at random."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, TypeVar
from zlib import crc32

import numpy as np
from annotated_types import MaxLen, MinLen

from unbox import memory_limit
from unbox.edit import Edit, Edits
from unbox.edit_ops import OPS
from unbox.edits.layout import Maps
from unbox.edits.terms import Term, signed_value, term_of
from unbox.errors import UnboxError
from unbox.validation import Seed, Several, checked

Source = TypeVar("Source")

#: Positions along a side, at most, on which masks are laid out to take the norm.
SIDE = 64

#: The rule below, in the keys of cached results of controls: those of another rule are not found.
CONTROL_RULE = 2

#: Steps that a schedule can have: those of training.
STEPS = 1000


#: What numbers a draw: whole numbers, one or several.
Draw = Annotated[Several[Seed], MinLen(1), MaxLen(16)]


def random_control(edits: Edit | Edits, draw: int | Sequence[int] = 0) -> Edits:
    """The same edits on features drawn at random: what any features do that are pushed as far.

    `edits` carry their SAEs (`bind`); equal (draw, edits) give equal controls. In each block:

    - every edited feature gives way to another, the same in all of the block's edits: drawn without
      replacement from the living (density > 0) of its SAE, never one that any edit of the block is of. A
      direction gives way to a random one of equal norm. Edits of the whole update stay as they are.
    - op, unit, mask, steps and branch stay. `scale` keeps its factor: what it moves depends on activity.
    - what `add`, `set` and `replace` put in is multiplied so that at every step its sum over the block's
      edits has the norm of the original's, over channels, positions and both branches together. The masks
      count as laid out on a grid as fine as the finest of them, 64 x 64 at most and for boxes; "own" counts
      as everywhere, for it is known only while the model runs.

    Raises UnboxError for SAEs that are missing, have no statistics or too few living features.
    """
    draw = checked(Draw, "draw", draw, "random_control")
    result = list(Edits.of(edits))
    for block in Edits(tuple(result)).blocks:
        slots = [i for i, e in enumerate(result) if e.block == block and e.subject != "update"]
        original = [result[i] for i in slots]
        drawn = _redrawn(original, block, draw)
        for slot, edit in zip(slots, _matched(drawn, original), strict=True):
            result[slot] = edit
    return Edits(tuple(result))


def controlled(make_edits: Callable[[Source], Edits], draw: int) -> Callable[[Source], Edits]:
    """What makes the same edits of each thing, on features drawn at random."""
    return lambda source: random_control(make_edits(source), draw)


def _redrawn(edits: Sequence[Edit], block: str, draw: tuple[int, ...]) -> list[Edit]:
    """The edits of a block on other features and directions, their values as they were."""
    edited = list(dict.fromkeys(f for edit in edits for f in edit.feature))
    rng = np.random.default_rng([*draw, crc32(block.encode()), *edited])
    others: dict[tuple[int, int], int] = {}
    for sae in {id(e.sae): e.sae for e in edits if e.feature}.values():
        mine = dict.fromkeys(f for e in edits if e.sae is sae for f in e.feature)
        if sae is None or sae.stats is None:
            missing = "carries no SAE" if sae is None else "is of an SAE without statistics"
            raise UnboxError(
                f"{block}/{next(iter(mine))} {missing}, so no living features can be drawn for it"
            )
        living = np.setdiff1d(np.flatnonzero(np.asarray(sae.stats.density) > 0), edited)
        if len(living) < len(mine):
            raise UnboxError(
                f"{block} has too few living features for a random control of {len(mine)}: "
                f"{len(living)} that are not edited; edit fewer features or take a larger SAE"
            )
        drawn = rng.choice(living, len(mine), replace=False).tolist()
        others |= {(id(sae), f): other for f, other in zip(mine, drawn, strict=True)}
    vectors: dict[tuple[float, ...], tuple[float, ...]] = {(): ()}
    for vector in dict.fromkeys(edit.direction for edit in edits if edit.direction):
        drawn = rng.standard_normal(len(vector))
        vectors[vector] = tuple((drawn * np.linalg.norm(vector) / np.linalg.norm(drawn)).tolist())
    features = [tuple(others[id(e.sae), f] for f in e.feature) for e in edits]
    return [
        replace(e, direction=vectors[e.direction], feature=f) for e, f in zip(edits, features, strict=True)
    ]


def _matched(drawn: Sequence[Edit], original: Sequence[Edit]) -> Iterator[Edit]:
    """The drawn edits, their values such that at each step the norm of the sum is the original's."""
    steps = sorted({step for edit in original for step in _changes(edit)})
    wanted, found = (_norms(edits, steps) for edits in (original, drawn))
    cancelled = (found <= 1e-6 * wanted) & (wanted > 0)
    if cancelled.any():
        raise UnboxError(f"the features drawn for {original[0].block} cancel out; take another draw")
    ratios = np.divide(wanted, found, out=np.ones_like(found), where=found > 0)
    acting = ratios[found > 0]
    if len(acting) and np.allclose(acting, acting[0], rtol=1e-9, atol=0):
        ratios = acting[:1]  # one number for all steps: a number stays a number
    for edit in drawn:
        yield _scaled(edit, ratios, steps) if OPS[edit.op].has_unit and len(acting) else edit


def _scaled(edit: Edit, ratios: np.ndarray, steps: Sequence[int]) -> Edit:
    """The edit with its value times a ratio, or times ratios (steps,) that hold from each step on."""
    if len(ratios) > 1:
        every = range(steps[-1] + 1)
        values = [replace(edit, steps=None).at(step) or 0.0 for step in every]
        return replace(edit, value=tuple(values * ratios[np.searchsorted(steps, every, "right") - 1]))
    if isinstance(edit.value, tuple):
        return replace(edit, value=tuple(v * ratios[0] for v in edit.value))
    return replace(edit, value=edit.value * float(ratios[0]))


def _changes(edit: Edit) -> set[int]:
    """The steps at which what an edit adds may become another; it is the same in between and after."""
    curve = len(edit.value) if isinstance(edit.value, tuple) else 1
    frames = edit.where.shape[-3] if edit.where is not None and len(edit.where.shape) > 2 else 1
    return {step for step in (*range(min(STEPS, max(curve, frames))), *(edit.steps or ())) if step < STEPS}


def _norms(edits: Sequence[Edit], steps: Sequence[int]) -> np.ndarray:
    """(steps,) norm of what ops with a unit put in, summed, over channels, positions and branches."""
    terms, maps = [term_of(edit) for edit in edits if OPS[edit.op].has_unit], Maps()
    masks = [edit.where for edit in edits if edit.where is not None and not edit.where.own]
    sides = [(SIDE, SIDE) if mask.box is not None else mask.shape[-2:] for mask in masks]
    grid = min(SIDE, max((h for h, _ in sides), default=1)), min(SIDE, max((w for _, w in sides), default=1))
    rows = sum(len(term.units) for term in terms)
    numbers = 2 * grid[0] * grid[1] + sum(len(t.units) * t.vectors.shape[-1] for t in terms) // max(rows, 1)
    memory_limit.require(8 * rows * (numbers + 3 * rows), f"the norm of edits of {rows:,} features")
    squares = [
        sum(_square(terms, step, branch, maps, grid) for branch in ("cond", "uncond")) for step in steps
    ]
    return np.sqrt(np.maximum(squares, 0) / (grid[0] * grid[1]))


def _square(terms: Sequence[Term], step: int, branch: str, maps: Maps, grid: tuple[int, int]) -> float:
    """Squared norm over channels and positions: sum_ij <a_i, a_j> <d_i, d_j> over maps a, directions d."""
    amounts, vectors = [], []
    for term in terms:
        value = signed_value(term.edit, step, branch)
        if value is None:
            continue
        mask = term.edit.where
        placed = np.ones((1, *grid)) if mask is None or mask.own else maps.at(term.edit, step, grid)
        weights = np.broadcast_to(placed.reshape(len(placed), -1), (len(term.units), grid[0] * grid[1]))
        amounts.append(value * np.array(term.units)[:, None] * weights)
        vectors.append(term.vectors.cpu().numpy().astype(np.float64))
    if not amounts:
        return 0.0
    a, d = np.concatenate(amounts), np.concatenate(vectors)
    return float(((a @ a.T) * (d @ d.T)).sum())
