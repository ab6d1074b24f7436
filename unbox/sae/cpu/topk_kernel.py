"""Top-k on CPU in machine code (numba): the k largest of each row, for small k."""

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
