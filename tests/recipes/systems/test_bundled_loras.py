"""Which rank of a LoRA the package brings: the smallest that is no worse, caption by caption."""

import numpy as np

from benchmarks.bundled_loras import ZOO, no_worse, smallest
from benchmarks.present_loras import with_section
from benchmarks.recipes_grid import GRID
from unbox.text_files import read_toml_file


def figures(right=0.0, distance=0.0, likelihood=0.0, bright=0.0, white=0.0):
    """A result of forty captions, moved from one level by so much each."""
    rng = np.random.default_rng(0)
    every = {
        "right": (0.9 + right + rng.normal(0, 0.05, 40)).tolist(),
        "distance": (0.1 + distance + rng.normal(0, 0.01, 40)).tolist(),
        "likelihood": (-0.1 + likelihood + rng.normal(0, 0.02, 40)).tolist(),
    }
    taste = {"preferred": [0.7 + bright + 0.1 * (i % 2) for i in range(12)]}
    return {"figures": every, "taste": taste, "plain": {"black": [0.1] * 4, "white": [0.5 + white] * 4}}


def test_a_rank_is_worse_where_any_figure_is_worse_in_most_captions():
    full = figures()
    assert no_worse(full, full)
    assert no_worse(figures(right=0.01, distance=-0.01, likelihood=0.01), full)
    less = ({"right": -0.01}, {"distance": 0.01}, {"likelihood": -0.01}, {"bright": -0.1}, {"white": -0.02})
    for worse in less:
        assert not no_worse(figures(**worse), full)
    assert no_worse(
        figures(distance=0.0009), full
    )  # a thousandth, half of what trainings differ by, is let pass
    assert not no_worse(figures(distance=0.0011), full)
    assert no_worse({"figures": full["figures"]}, full)  # what a cell was not trained for is not asked


def test_the_smallest_that_is_no_worse_is_kept_and_else_the_largest():
    full, bad = figures(), figures(right=-0.05)
    assert smallest({"4": bad, "8": full, "16": full}, full) == (8, True)
    assert smallest({"16": bad, "4": bad}, full) == (16, False)


def test_every_system_is_of_a_cell_of_the_grid():
    assert set(ZOO.values()) <= {row["name"] for row in read_toml_file(GRID)["cell"]}


def test_a_card_says_once_what_a_lora_does_over_the_present_base():
    own = figures(white=0.25)
    told = {"unet": "0123456789", "steps": 10, "guidance": 0.0, "processor": "a CPU", **own}
    told["base"] = {"0": {"figures": own["figures"]}, "2": {"figures": own["figures"], "plain": own["plain"]}}
    card = "# shapes-x\n\nAs it was trained.\n"
    once = with_section(card, told)
    assert once.startswith(card)
    assert with_section(once, told | {"unet": "98765432ff"}) == once.replace("01234567", "98765432")
    rows = [line for line in once.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in rows[2:]] == [
        "| `shapes-base` in 10 steps, no guidance", "| `shapes-base` in 10 steps, guidance 2",
        "| this LoRA over it",
    ]  # fmt: skip
    assert "0.750" in rows[-1]
    assert "0.750" not in rows[2]
