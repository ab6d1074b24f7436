"""Top-k on CPU in machine code (numba): the k largest of each row for small k, and the k-th for any."""

import numpy as np

from activation_store.loop_compiler import compiled

#: Entries that are counted in the type of the array, which holds their number: int16 is counted 32 at once.
COUNTED = 1 << 14
#: Entries up to which they are sorted by insertion: equal ones may be all of a row.
MANY = 256


@compiled(error_model="numpy")
def topk_rows(array: np.ndarray, size: int, k: int, indices: np.ndarray) -> None:
    """The k largest of each row of `array` (R, n), as places in `indices` (R, k), largest first, for small k.

    Whole numbers; what is not positive is alike. The k-th largest of the maxima of groups,
    of entries s * groups + g over s < `size`, bounds the k-th largest of all from below, and only groups that
    reach it are looked into. Of equals the first.
    """
    count, n = array.shape
    groups = n // size
    maxima, value = np.empty(groups, array.dtype), np.zeros(3, array.dtype)
    # One more than there can be: loops write before they know whether an entry counts, and have no branches.
    near, at = np.empty(groups + 1, np.int64), np.empty(n + 1, np.int64)
    found = np.empty(n + 1, array.dtype)
    for r in range(count):
        row = array[r]
        maxima[:] = row[:groups]
        for s in range(1, size):
            part = row[s * groups : (s + 1) * groups]
            for g in range(groups):
                maxima[g] = max(maxima[g], part[g])
        bound = max(_kth_of_row(maxima, k, value), 1)
        some = number = 0
        for g in range(groups):
            near[some] = g
            some += maxima[g] >= bound
        for i in range(some + 1):
            first, step, last = (near[i], groups, size * groups) if i < some else (size * groups, 1, n)
            for place in range(first, last, step):
                found[number], at[number] = row[place], place
                number += row[place] >= bound
        _sort_down(found[:number], at[:number])
        indices[r, : min(number, k)] = at[: min(number, k)]
        place = 0
        while number < k:  # fewer are positive
            if row[place] <= 0:
                indices[r, number] = place
                number += 1
            place += 1


@compiled(error_model="numpy")
def _sort_down(found: np.ndarray, at: np.ndarray) -> None:
    """Sort entries and their places, largest first and of equals the first, in place: a few by insertion."""
    if len(found) > MANY:
        order = np.argsort(at, kind="mergesort")
        order = order[np.argsort(-found[order], kind="mergesort")]
        found[:], at[:] = found[order], at[order]
        return
    for i in range(1, len(found)):
        entry, place, j = found[i], at[i], i
        while j > 0 and (found[j - 1] < entry or (found[j - 1] == entry and at[j - 1] > place)):
            found[j], at[j] = found[j - 1], at[j - 1]
            j -= 1
        found[j], at[j] = entry, place


@compiled(error_model="numpy")
def kth_largest(first: int, last: int, array: np.ndarray, k: int, found: np.ndarray) -> None:
    """The k-th largest of rows [first, last) of `array` (R, n), whole numbers >= 0, to `found` (R,)."""
    value = np.zeros(3, array.dtype)
    for r in range(first, last):
        found[r] = _kth_of_row(array[r], k, value)


@compiled(error_model="numpy")
def _kth_of_row(row: np.ndarray, k: int, value: np.ndarray) -> int:
    """The k-th largest of a row (n,), or 0 if fewer are positive; `value` (3,) is of its type, and ends in 0.

    Bit by bit from the highest: a bit is set if as many as k entries reach what it makes.
    """
    value[0] = 0
    for bit in range(8 * row.itemsize - 2, -1, -1):
        value[1] = value[0] | (1 << bit)
        if _count_from(row, value[1], value[2]) >= k:
            value[0] = value[1]
    return int(value[0])


@compiled(error_model="numpy")
def _count_from(row: np.ndarray, bound: int, zero: int) -> int:
    """How many of a row (n,) are at least as large; `zero` is of its type, in which it counts."""
    number = 0
    for start in range(0, len(row), COUNTED):
        part, count = row[start : start + COUNTED], zero
        for i in range(len(part)):
            count += row.dtype.type(part[i] >= bound)
        number += count
    return number
