import math

import pytest

from unbox.errors import UnboxError
from unbox.models import BUCKETS, nearest_bucket


def test_buckets_are_as_published():
    assert len(set(BUCKETS)) == len(BUCKETS) == 40
    assert all(side % 64 == 0 for size in BUCKETS for side in size)
    assert all(0.87 < height * width / 1024**2 <= 1.07 for height, width in BUCKETS)
    assert min(BUCKETS) == (512, 1856)
    assert max(BUCKETS) == (2048, 512)
    assert {(1024, 1024), (1152, 896), (896, 1152), (832, 1216), (768, 1344), (640, 1536)} <= set(BUCKETS)


@pytest.mark.parametrize("size", BUCKETS)
def test_a_bucket_is_nearest_to_itself_at_any_scale(size):
    height, width = size
    assert nearest_bucket(height, width) == size
    assert nearest_bucket(height / 3, width / 3) == size


def test_nearest_is_in_the_ratio():
    assert nearest_bucket(9, 16) == (768, 1344)
    assert nearest_bucket(16, 9) == (1344, 768)
    assert nearest_bucket(1, 100) == (512, 2048)
    assert nearest_bucket(1, 1, side=512) == (512, 512)
    assert nearest_bucket(9, 16, side=64) == (48, 80)
    assert nearest_bucket(1, 1, side=8) == (8, 8)


@pytest.mark.parametrize(
    ("height", "width"), [(0, 4), (0, 0), (4, -1), (math.nan, 1), (math.inf, 1), (1, "2"), (10**400, 1)]
)
def test_what_has_no_aspect_ratio_is_refused(height, width):
    with pytest.raises(UnboxError, match=r"nearest_bucket: (height|width) = .*: should be "):
        nearest_bucket(height, width)
