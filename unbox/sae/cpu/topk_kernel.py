"""Top-k on CPU in machine code (numba): the k largest of each row for small k, and the k-th for any."""

import numpy as np

from activation_store.loop_compiler import compiled


@compiled(error_model="numpy")
def topk_rows(array: np.ndarray, maxima: np.ndarray, k: int, indices: np.ndarray) -> None:
    """The k largest of each row of `array` (R, n), as places in `indices` (R, k), largest first, for small k.

    Whole numbers. maxima (R, groups) are of entries s * groups + g over s: the k-th largest of them
    bounds the k-th largest of all from below, and only groups that reach it are looked into. Of equals the
    first.
    """
    count, n = array.shape
    groups = maxima.shape[1]
    size = n // groups
    top = np.empty(k, array.dtype)
    at, found = np.zeros(n, np.int64), np.empty(n, array.dtype)
    for r in range(count):
        number = 0
        for g in range(groups):
            value = maxima[r, g]
            if number < k or value > top[k - 1]:
                j = min(number, k - 1)
                while j > 0 and top[j - 1] < value:
                    top[j] = top[j - 1]
                    j -= 1
                top[j] = value
                number += 1
        number, bound = 0, top[k - 1]
        for g in range(groups + 1):
            if g < groups and maxima[r, g] < bound:
                continue
            first, step, last = (g, groups, size * groups) if g < groups else (size * groups, 1, n)
            for place in range(first, last, step):
                value = array[r, place]
                if value >= bound:
                    j = number
                    while j > 0 and (found[j - 1] < value or (found[j - 1] == value and at[j - 1] > place)):
                        found[j], at[j] = found[j - 1], at[j - 1]
                        j -= 1
                    found[j], at[j] = value, place
                    number += 1
        indices[r] = at[:k]


#: Entries that are counted in the type of the array, which holds their number: int16 is counted 32 at once.
COUNTED = 1 << 14


@compiled(error_model="numpy")
def kth_largest(first: int, last: int, array: np.ndarray, k: int, found: np.ndarray) -> None:
    """The k-th largest of rows [first, last) of `array` (R, n) of int16 or int32 >= 0, to `found` (R,).

    Bit by bit from the highest: a bit is set if as many as k entries reach what it makes.
    """
    bits = 8 * array.itemsize - 2
    value = np.zeros(2, array.dtype)  # the answer so far and with one bit more, in the array's type
    for r in range(first, last):
        value[0] = 0
        for bit in range(bits, -1, -1):
            value[1] = value[0] | (1 << bit)
            if _count_from(array[r], value[1]) >= k:
                value[0] = value[1]
        found[r] = value[0]


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
