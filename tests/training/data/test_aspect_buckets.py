"""SDXL's table of sizes by its rule, and an image cut by hand."""

import numpy as np
import pytest
from PIL import Image

from unbox.training.data.aspect_buckets import AspectBuckets, Cut


def test_the_table_is_its_rule():
    """Multiples of 64 from 512 to 2048, nine tenths to all of 1024 x 1024 pixels, ratios of 1/4 to 4. The
    paper's table has all of these but 1344 x 704, whose mirror image it has."""
    sides = range(512, 2049, 64)
    rule = {(h, w) for h in sides for w in sides if 0.9 * 1024**2 <= h * w <= 1024**2 and 0.25 <= h / w <= 4}
    assert set(AspectBuckets.of(1024, 32).sizes) == rule - {(1344, 704)}


@pytest.mark.parametrize(("side", "unit"), [(512, 32), (128, 16), (64, 8), (768, 32)])
def test_other_sizes_are_the_table_scaled(side, unit):
    sizes = AspectBuckets.of(side, unit).sizes
    assert (side, side) in sizes
    assert len(set(sizes)) == len(sizes)
    assert all(length % unit == 0 for size in sizes for length in size)
    assert all(0.7 < h * w / side**2 < 1.3 for h, w in sizes)
    assert AspectBuckets.of(side, unit, square=True).sizes == ((side, side),)


def test_an_image_is_of_the_bucket_nearest_in_ratio():
    buckets = AspectBuckets.of(1024, 32)
    for height, width, size in (
        (480, 640, (896, 1152)), (3000, 2000, (1216, 832)), (100, 1000, (512, 2048)), (7, 7, (1024, 1024)),
    ):  # fmt: skip
        assert buckets.sizes[buckets.nearest(height, width)] == size


def test_an_image_cut_by_hand():
    """30 x 20 pixels into 16 x 16: resized to 24 x 16, of which 4 rows above and below are cut off."""
    pixels = np.zeros((30, 20, 3), np.uint8)
    pixels[:, :, 0] = np.arange(30)[:, None] * 8
    cut = Cut.of((30, 20), (16, 16), "center", 0)
    assert (cut.resized, cut.corner) == ((24, 16), (4, 0))
    assert cut.sizes == (30, 20, 4, 0, 16, 16)
    made = cut.pixels(Image.fromarray(pixels))
    assert made.shape == (16, 16, 3)
    rows = (np.arange(24) + 0.5) * 30 / 24 - 0.5  # where the rows of the resized image were
    assert np.allclose(made[2:-2, 5, 0], 8 * rows[4:20][2:-2], atol=2)


def test_a_small_image_is_drawn_larger_and_says_so():
    cut = Cut.of((8, 8), (64, 64), "center", 0)
    assert cut.sizes == (8, 8, 0, 0, 64, 64)
    assert cut.pixels(Image.new("RGB", (8, 8), "red")).shape == (64, 64, 3)


def test_random_crops_are_of_the_seed_and_reach_both_ends():
    corners = {Cut.of((20, 10), (10, 10), "random", seed).corner for seed in range(200)}
    assert corners == {(top, 0) for top in range(11)}
    assert Cut.of((20, 10), (10, 10), "random", 5) == Cut.of((20, 10), (10, 10), "random", 5)
