"""Top-k on CPU in machine code (numba): the k largest of each row for small k, and the k-th for any."""

import numpy as np

from activation_store.loop_compiler import compiled

#: Entries that are counted in the type of the array, which holds their number: int16 is counted 32 at once.
COUNTED = 1 << 14


@compiled(error_model="numpy")
def topk_rows(array: np.ndarray, size: int, k: int, indices: np.ndarray) -> None:
    """The k largest of each row of `array` (R, n), as places in `indices` (R, k), largest first, for small k.

    Whole numbers; what is not positive is alike. The k-th largest of the maxima of groups, of entries
    s * groups + g over s < `size`, bounds the k-th largest of all from below, and only groups that reach it
    are looked into. Of equals the first.
    """
    count, n = array.shape
    groups = n // size
    maxima, value = np.empty(groups, array.dtype), np.empty(2, array.dtype)
    at, found = np.zeros(n, np.int64), np.empty(n, array.dtype)
    for r in range(count):
        row = array[r]
        maxima[:] = row[:groups]
        for s in range(1, size):
            part = row[s * groups : (s + 1) * groups]
            for g in range(groups):
                maxima[g] = max(maxima[g], part[g])
        number, bound = 0, max(_kth_of_row(maxima, k, value), 1)
        for g in range(groups + 1):
            if g < groups and maxima[g] < bound:
                continue
            first, step, last = (g, groups, size * groups) if g < groups else (size * groups, 1, n)
            for place in range(first, last, step):
                entry = row[place]
                if entry >= bound:
                    j = number
                    while j > 0 and (found[j - 1] < entry or (found[j - 1] == entry and at[j - 1] > place)):
                        found[j], at[j] = found[j - 1], at[j - 1]
                        j -= 1
                    found[j], at[j] = entry, place
                    number += 1
        place = 0
        while number < k:  # fewer are positive
            if row[place] <= 0:
                at[number] = place
                number += 1
            place += 1
        indices[r] = at[:k]


@compiled(error_model="numpy")
def kth_largest(first: int, last: int, array: np.ndarray, k: int, found: np.ndarray) -> None:
    """The k-th largest of rows [first, last) of `array` (R, n), whole numbers >= 0, to `found` (R,)."""
    value = np.empty(2, array.dtype)
    for r in range(first, last):
        found[r] = _kth_of_row(array[r], k, value)


@compiled(error_model="numpy")
def _kth_of_row(row: np.ndarray, k: int, value: np.ndarray) -> int:
    """The k-th largest of a row (n,), or 0 if fewer are positive; `value` (2,) is of its type.

    Bit by bit from the highest: a bit is set if as many as k entries reach what it makes.
    """
    value[0] = 0
    for bit in range(8 * row.itemsize - 2, -1, -1):
        value[1] = value[0] | (1 << bit)
        if _count_from(row, value[1]) >= k:
            value[0] = value[1]
    return int(value[0])


@compiled(error_model="numpy")
def _count_from(row: np.ndarray, bound: int) -> int:
    """How many of a row (n,) are at least as large."""
    number, some = 0, np.zeros(1, row.dtype)
    for start in range(0, len(row), COUNTED):
        part = row[start : start + COUNTED]
        count = some[0]
        for i in range(len(part)):
            count += row.dtype.type(part[i] >= bound)
        number += count
    return number
