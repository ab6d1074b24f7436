"""Which rank of a LoRA the package brings: the smallest that is no worse, caption by caption."""

import numpy as np

from benchmarks.bundled_loras import ZOO, no_worse, smallest
from benchmarks.recipes_grid import GRID
from unbox.text_files import read_toml_file


def figures(right=0.0, distance=0.0, likelihood=0.0):
    """Of forty captions, moved from one level by so much each."""
    rng = np.random.default_rng(0)
    return {
        "right": (0.9 + right + rng.normal(0, 0.05, 40)).tolist(),
        "distance": (0.1 + distance + rng.normal(0, 0.01, 40)).tolist(),
        "likelihood": (-0.1 + likelihood + rng.normal(0, 0.02, 40)).tolist(),
    }


def test_a_rank_is_worse_where_any_figure_is_worse_in_most_captions():
    full = figures()
    assert no_worse(full, full)
    assert no_worse(figures(right=0.01, distance=-0.01, likelihood=0.01), full)
    for worse in ({"right": -0.01}, {"distance": 0.01}, {"likelihood": -0.01}):
        assert not no_worse(figures(**worse), full)


def test_the_smallest_that_is_no_worse_is_kept_and_else_the_largest():
    full, bad = figures(), figures(right=-0.05)
    assert smallest({"4": bad, "8": full, "16": full}, full) == (8, True)
    assert smallest({"16": bad, "4": bad}, full) == (16, False)


def test_every_system_is_of_a_cell_of_the_grid():
    assert set(ZOO.values()) <= {row["name"] for row in read_toml_file(GRID)["cell"]}
