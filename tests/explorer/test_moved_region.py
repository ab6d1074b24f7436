"""A region that is dragged: what its layers add, against the codes."""

from dataclasses import replace

import numpy as np
import pytest

from unbox.errors import UnboxError
from unbox.explorer.moved_region import FEATURES, LEVELS, moved_edits, shifted
from unbox.mask import Mask

BOX = Mask.of((0.0, 0.0, 0.5, 0.5))


def test_maps_are_shifted_and_nothing_comes_round():
    whole = np.arange(1, 13).reshape(3, 4)
    np.testing.assert_array_equal(shifted(whole, (1, -2)), [[0, 0, 0, 0], [3, 4, 0, 0], [7, 8, 0, 0]])
    np.testing.assert_array_equal(shifted(whole, (-1, 0)), [[5, 6, 7, 8], [9, 10, 11, 12], [0, 0, 0, 0]])
    assert not shifted(whole, (3, 0)).any()
    assert not shifted(whole, (0, -4)).any()


def test_what_is_added_is_the_regions_codes_there_less_here(session, recipe):
    recorded = session.record(recipe)
    edits = moved_edits(session, recorded, BOX, 0.5, 0.25)
    assert {edit.block for edit in edits} == set(session.saes)
    for edit in edits:
        values, indices = (each[edit.block][:, 0] for each in (recorded.values, recorded.indices))
        steps, height, width, _ = values.shape
        dense = np.zeros((steps, height, width, 32), np.float32)
        np.put_along_axis(dense, indices, values.astype(np.float32), -1)
        dense[:, height // 2 :] = 0
        dense[:, :, width // 2 :] = 0
        order = np.argsort(-dense.sum((0, 1, 2)), kind="stable")
        assert set(edit.feature) == {int(i) for i in order[: FEATURES[0]] if dense[..., i].any()}
        expected = -dense.copy()
        expected[:, height // 4 :, width // 2 :] += dense[:, : height - height // 4, : width // 2]
        for feature, found in zip(edit.feature, edit.where.array, strict=True):
            bound = np.abs(expected[..., list(edit.feature)]).max() / LEVELS
            np.testing.assert_allclose(found, expected[..., feature], atol=0.51 * bound)
    made = session.generate([recipe, replace(recipe, edits=edits)])
    assert np.asarray(made[0]).tolist() != np.asarray(made[1]).tolist()
    assert len(replace(recipe, edits=edits).to_link()) < 30_000


def test_a_region_that_stays_or_holds_nothing_is_refused(session, recipe):
    recorded = session.record(recipe)
    for region, dx in ((BOX, 0.0), (BOX, 0.001), (Mask.of(np.zeros((8, 8))), 0.5)):
        with pytest.raises(UnboxError, match="paint over something"):
            moved_edits(session, recorded, region, dx, 0.0)
    with pytest.raises(UnboxError, match="within the picture"):
        moved_edits(session, recorded, BOX, float("nan"), 0.0)
