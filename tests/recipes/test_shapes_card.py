"""The card of a grown Shapes model says what its report measured."""

import json

from activation_store.files import read_json
from unbox.recipes.shapes.growth import BLOCKS
from unbox.recipes.shapes.orders import ORDERS
from unbox.recipes.shapes.shapes_card import orders_of, orders_of_run, write_card
from unbox.shapes import FACTORS

SHARES = dict.fromkeys([*FACTORS, "all"], 0.9876)
CHANGES = {name: {"change": i / 100} | dict.fromkeys(FACTORS, i / 50) for i, name in enumerate(BLOCKS)}
REPORT = {
    "full, 1 steps": SHARES | {"sharpness": 0.01},
    "full, 1 steps, detector": SHARES,
    "ablations": CHANGES,
    "open, 1 steps": {"shape": {"differ": 0.22, "independent": 0.83}},
    "open, 4 steps": {"shape": {"differ": 0.71, "independent": 0.83}},
    "sizes and crops": {"center to top": 0.97},
}


def test_a_model_that_went_on_says_how_it_began(tmp_path):
    """The order of the run, after what the model of `--start` says of itself."""
    first, run, last = (tmp_path / name for name in ("first", "run", "last"))
    for folder in (first, run, last):
        folder.mkdir()
    assert orders_of(first) == []
    write_card(first, orders_of_run(run, "words-frozen"), REPORT)
    (run / "start.json").write_text(json.dumps({"orders": orders_of(first)}))
    write_card(last, orders_of_run(run, "again"), REPORT)
    text = (last / "README.md").read_text()
    places = [text.index(f"unbox recipe shapes --order {name}") for name in ("words-frozen", "again")]
    assert places == sorted(places)
    assert text.count("| blocks | words | trained |") == 1
    assert orders_of(last) == ["words-frozen", "again"]
    for odd in (
        {},
        {"recipe": []},
        {"recipe": {"orders": "again"}},
        {"recipe": {"orders": [7, [], "other"]}},
    ):
        (last / "report.json").write_text(json.dumps(odd))
        assert orders_of(last) == []


def test_a_card_holds_every_figure_and_the_default_blocks_first(tmp_path):
    write_card(tmp_path, ["colour-moved"], REPORT)
    assert read_json(tmp_path / "report.json") == {**REPORT, "recipe": {"orders": ["colour-moved"]}}
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
