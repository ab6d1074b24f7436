"""Top-k: the largest pre-activations, by row or over a whole batch, in slices of rows.

A slice holds at most `SLICE` pre-activations, so the dense array (B, n) never exists whole.
"""

from collections.abc import Iterator

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from unbox.sae.cpu.threads import parallel_for
from unbox.sae.distributed import ProcessGroup, Team
from unbox.sae.sparse import AVAILABLE, SLICE, SLICE_ELSEWHERE, Active

#: Pre-activations of a slice of `by_row` on CPU: they stay in a core's cache from the product to the choice.
CACHED = 5 << 17
#: k up to which the compiled loop chooses in less time than sorting.
FEW = 32
SINGLE = Team(ProcessGroup(), ProcessGroup())


def pre_activations(
    centred: Tensor, weight: Tensor, bias: Tensor, per: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Slices (first row, (rows, n)) of centred @ weight.T + bias, in the dtype of the three, of at most `per`
    numbers (None: `SLICE`) or one row.

    A slice is overwritten by the next: take what is wanted of it first.
    """
    per = per or SLICE.get(centred.device.type, SLICE_ELSEWHERE)
    size = min(max(1, len(centred)), max(1, per // max(1, len(weight))))
    buffer = centred.new_empty(size, len(weight))
    for start in range(0, max(1, len(centred)), size):
        rows = centred[start : start + size]
        yield start, torch.addmm(bias, rows, weight.T, out=buffer[: len(rows)])


def by_row(
    centred: Tensor, weight: Tensor, bias: Tensor, k: int, team: Team = SINGLE
) -> tuple[Active, Tensor]:
    """The k largest of every row, descending: the pattern, and their pre-activations (E,).

    Where latents are shared, a process keeps those of its own that are among the k largest of all.
    """
    local_k = min(k, len(weight))
    per = CACHED if centred.device.type == "cpu" else None
    parts = [largest(pre, local_k) for _, pre in pre_activations(centred, weight, bias, per)]
    values, indices = (torch.cat(column) for column in zip(*parts, strict=True))
    if team.latents.world > 1:
        chosen = _among_all(values, k, team.latents)
        rows = torch.arange(len(values), device=values.device).repeat_interleave(local_k)[chosen]
        active = Active.of_flat(indices.reshape(-1)[chosen], rows, len(values), len(weight))
        return active, values.reshape(-1)[chosen]
    return Active.of_rows(indices, len(weight)), values.reshape(-1)


def by_batch(
    centred: Tensor, weight: Tensor, bias: Tensor, k: int, team: Team = SINGLE, rows: int | None = None
) -> tuple[Active, Tensor]:
    """The B * k largest positive ones of the whole batch: the pattern, and their pre-activations (E,).

    Streams over slices, keeping what can still win. Ties at the threshold keep the earlier entry. Of several
    processes each takes those of its own that are among the winners of all `rows` (None: they are counted);
    ties keep the earlier process's. Of one process a GPU tells its host no number: there always are B * k
    entries, and those that are not positive are 0 after the ReLU.
    """
    if rows is None:
        counted = torch.tensor(len(centred))  # on the CPU, where no GPU is waited for
        team.rows.sum_(counted)
        rows = int(counted)
    wanted, floor = k * rows, 0.0
    if centred.device.type != "cpu" and team.everyone.world == 1:
        values, places = _of_one_size(centred, weight, bias, wanted)
        return _at_places(places, len(centred), len(weight)), values
    values, places = centred.new_zeros(0), torch.zeros(0, dtype=torch.int64, device=centred.device)
    for start, pre in pre_activations(centred, weight, bias):
        flat = pre.reshape(-1)
        found = _positions(flat, floor)
        values = torch.cat([values, flat[found]])
        places = torch.cat([places, found + start * len(weight)])
        if len(values) > wanted:
            chosen, floor = _keep(values, wanted)
            values, places = values[chosen], places[chosen]
    if team.everyone.world > 1:
        chosen = _among_winners(values, wanted, team.everyone)
        values, places = values[chosen], places[chosen]
    return _at_places(places, len(centred), len(weight)), values


def _of_one_size(centred: Tensor, weight: Tensor, bias: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """The `wanted` largest of a batch, and their flat places, ascending; no shape depends on a value."""
    parts, places = [], []
    for start, pre in pre_activations(centred, weight, bias):
        best = pre.reshape(-1).topk(min(wanted, pre.numel()), sorted=False)
        parts.append(best.values)
        places.append(best.indices + start * len(weight))
    values, place = torch.cat(parts), torch.cat(places)
    if len(parts) > 1:
        best = values.topk(min(wanted, len(values)), sorted=False)
        values, place = best.values, place[best.indices]
    place, order = place.sort()
    return values[order], place


def _at_places(places: Tensor, count: int, latents: int) -> Active:
    """The pattern of flat places, ascending, in (count, latents)."""
    rows = places // latents
    return Active.of_flat(places - rows * latents, rows, count, latents)


def above(centred: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor) -> tuple[Active, Tensor]:
    """Every pre-activation over a threshold, () or (n,), and over 0: the pattern, and the values (E,)."""
    values, places, floor = [], [], threshold.clamp_min(0)
    for start, pre in pre_activations(centred, weight, bias):
        found = _true((pre > floor).reshape(-1))
        values.append(pre.reshape(-1)[found])
        places.append(found + start * len(weight))
    return _at_places(torch.cat(places), len(centred), len(weight)), torch.cat(values)


def largest(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`torch.topk(pre, k)` of each row of (B, n): values and indices (B, k), descending.

    On CPU by groups. The k-th largest of the maxima of n/g groups bounds the k-th largest of all from below;
    only what reaches it (about 1.2 k entries a row) is sorted. 1.5 to 4 times faster than `torch.topk`, equal
    up to the choice among equals (here the first). In bf16 negative entries come in any order: they are 0
    after the ReLU.
    """
    groups = group(pre.shape[1], k)
    if pre.device.type != "cpu" or groups == 1 or pre.dtype not in (torch.float32, torch.bfloat16):
        return pre.topk(k)
    return _largest_by_groups(pre, k, groups)


def group(n: int, k: int) -> int:
    """Size of a group: a power of two that leaves at least 4 k groups; 1 where that saves nothing."""
    size = 1
    while size < 32 and n // (size * 2) >= 4 * k:
        size *= 2
    return size if size >= 4 else 1


def _largest_by_groups(pre: Tensor, k: int, size: int) -> tuple[Tensor, Tensor]:
    # bf16 as int16: the same order for all that is positive, at four times the lanes.
    array = (pre.view(torch.int16) if pre.dtype == torch.bfloat16 else pre).numpy()
    values, indices = np.empty((len(array), k), array.dtype), np.empty((len(array), k), np.int64)

    def of_range(rows: slice) -> None:
        part, found = array[rows], indices[rows]
        if AVAILABLE and k <= FEW:
            from unbox.sae.cpu.topk_kernel import topk_rows

            topk_rows(part.view(np.int32) if part.dtype == np.float32 else part, size, k, found)
            few = np.flatnonzero(part[np.arange(len(part)), found[:, -1]] <= 0)  # alike to the loop: sorted
        else:
            few = np.arange(len(part))
        if len(few):
            found[few] = places_of_largest(part[few], k, size)
        values[rows] = np.take_along_axis(part, found, 1)

    parallel_for(of_range, len(array))
    return torch.from_numpy(values).view(pre.dtype), torch.from_numpy(indices)


def places_of_largest(array: np.ndarray, k: int, size: int) -> np.ndarray:
    """(B, k) places of the largest of each row of (B, n), descending; of equals the first."""
    count, n = array.shape
    groups = n // size
    maxima = array[:, : groups * size].reshape(count, size, groups).max(1)
    bound = np.partition(maxima, groups - k, axis=1)[:, groups - k, None]
    found = np.flatnonzero(array >= bound)
    rows = found // n
    lengths = np.bincount(rows, minlength=count)
    column = np.arange(len(found)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    # One whole number for each candidate, smallest first: its value, falling, then its place, rising.
    keys = np.full((count, int(lengths.max())), np.iinfo(np.int64).max)
    keys[rows, column] = (~_ordered(array.reshape(-1)[found]).astype(np.int64) << 32) + (found - rows * n)
    keys.sort(axis=1)
    return keys[:, :k] & 0xFFFFFFFF


def _ordered(values: np.ndarray) -> np.ndarray:
    """Whole numbers in the order of floats (by their bits), or of int16 as they are."""
    if values.dtype != np.float32:
        return values
    bits = values.view(np.int32)
    return np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _positions(flat: Tensor, floor: float) -> Tensor:
    """Where a flat tensor exceeds a floor."""
    return _true(flat > floor)


def _true(flags: Tensor) -> Tensor:
    """Places of the true ones of flat flags; NumPy finds them several times faster on CPU."""
    if flags.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(flags.numpy()))
    return flags.nonzero().squeeze(1)


def _among_all(values: Tensor, k: int, group: ProcessGroup) -> Tensor:
    """(B * local_k,) bool: which of this one's largest (B, local_k) are among all processes' k largest.

    Of equals, those of the earlier process.
    """
    count, local_k = values.shape
    everyone = rearrange(group.gather_rows(values.float()), "(p b) k -> b (p k)", p=group.world)
    order = everyone.sort(dim=1, descending=True, stable=True).indices[:, :k]
    won = torch.zeros(count, group.world * local_k, dtype=torch.bool, device=values.device)
    won.scatter_(1, order, torch.ones_like(order, dtype=torch.bool))
    return won[:, group.rank * local_k : (group.rank + 1) * local_k].reshape(-1)


def _among_winners(values: Tensor, wanted: int, group: ProcessGroup) -> Tensor:
    """Places, ascending, of this process's values (E,) that are among the `wanted` largest of all."""
    parts = group.gather(values.float())
    everyone, first = torch.cat(parts), sum(len(part) for part in parts[: group.rank])
    if len(everyone) <= wanted:
        return torch.arange(len(values), device=values.device)
    chosen = _keep(everyone, wanted)[0] - first
    return chosen[(chosen >= 0) & (chosen < len(values))]


def _keep(values: Tensor, wanted: int) -> tuple[Tensor, float]:
    """Places of the `wanted` largest of a flat tensor, ascending (of equals the earlier), and the least."""
    if values.device.type == "cpu":
        array = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        least = float(np.partition(array, len(array) - wanted)[len(array) - wanted])
    else:
        least = float(values.topk(wanted).values[-1])
    over = _positions(values, least)
    equal = (values == least).nonzero().squeeze(1)[: wanted - len(over)]
    return torch.cat([over, equal]).sort().values, least
