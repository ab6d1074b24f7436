"""Where factors are read and edited, against the scenes' own masks."""

import numpy as np
import pytest

from unbox.shapes import masks, sample_scenes
from unbox.shapes.factors import TABLE
from unbox.shapes.where import edit_mask, place_mask, read_mask

SCENES = sample_scenes(8, seed=4)


def test_every_factor_has_its_places():
    assert {name for name, factor in TABLE.items() if factor.read != factor.edit} == {"position"}


@pytest.mark.parametrize("scene", SCENES)
def test_places_are_the_box_of_the_object_its_surroundings_and_everything(scene):
    for slot, drawn in enumerate(masks(scene)):
        rows, columns = np.nonzero(drawn)
        y, x = np.mgrid[0:128, 0:128]
        box = (abs(y - (rows.min() + rows.max()) / 2) <= np.ptp(rows) / 2 + 8) & (
            abs(x - (columns.min() + columns.max()) / 2) <= np.ptp(columns) / 2 + 8
        )
        for factor in ("shape", "colour", "size", "texture"):
            assert np.array_equal(edit_mask(factor, scene, slot).array, box)
            assert read_mask(factor, scene, slot) == edit_mask(factor, scene, slot)
        assert np.array_equal(read_mask("position", scene, slot).array, box)
        assert edit_mask("position", scene, slot) is None  # the object has to go where it is not
        assert np.array_equal(edit_mask("background", scene, slot).array, ~box)
    for factor in ("light", "relation"):
        assert read_mask(factor, scene) is edit_mask(factor, scene) is place_mask("everywhere", scene) is None
