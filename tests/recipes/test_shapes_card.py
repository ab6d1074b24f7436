"""The card of a grown Shapes model says what its report measured."""

from activation_store.files import read_json
from unbox.recipes.shapes.growth import BLOCKS
from unbox.recipes.shapes.orders import ORDERS
from unbox.recipes.shapes.shapes_card import write_card
from unbox.shapes import FACTORS


def test_a_card_holds_every_figure_and_the_default_blocks_first(tmp_path):
    shares = dict.fromkeys([*FACTORS, "all"], 0.9876)
    changes = {name: {"change": i / 100} | dict.fromkeys(FACTORS, i / 50) for i, name in enumerate(BLOCKS)}
    report = {
        "full, 1 steps": shares | {"sharpness": 0.01},
        "full, 1 steps, detector": shares,
        "ablations": changes,
        "open, 1 steps": {"shape": {"differ": 0.22, "independent": 0.83}},
        "open, 4 steps": {"shape": {"differ": 0.71, "independent": 0.83}},
        "sizes and crops": {"center to top": 0.97},
    }
    write_card(tmp_path, "colour-moved", report)
    assert read_json(tmp_path / "report.json") == report
    text = (tmp_path / "README.md").read_text()
    assert "{" not in text
    for told in (
        "| full, 1 steps | detector | 98.8",
        "| shape | 0.22 | 0.71 | 0.83 |",
        "| center to top | 0.97 |",
    ):
        assert told in text
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    drawn = [name for name in rows if name in BLOCKS][-len(BLOCKS) :]
    assert set(drawn[:4]) == {"down.2.1", "mid.0", "up.0.0", "up.0.1"}
    assert [f"| {', '.join(stage.blocks)} |" in text for stage in ORDERS["colour-moved"].stages] == [True] * 3
