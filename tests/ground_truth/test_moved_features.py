"""Whether two trainings moved the same features."""

from types import SimpleNamespace

import numpy as np

from benchmarks.moved_features import alike


def changes(change, q):
    return SimpleNamespace(change=np.array(change), q=np.array(q))


def test_two_systems_are_alike_by_what_both_list_and_by_all_changes():
    one = changes([1.0, 2.0, -3.0, 0.5], [0.01, 0.01, 0.01, 0.6])
    other = changes([2.0, -1.0, -2.0, 0.0], [0.01, 0.02, 0.2, 0.01])
    found = alike(one, other)
    assert (found["both"], found["same_way"]) == (2, 1)
    x, y = one.change - one.change.mean(), other.change - other.change.mean()
    assert np.isclose(found["correlation"], (x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()), atol=1e-4)
