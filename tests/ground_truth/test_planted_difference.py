"""The benchmark that plants a difference: what it draws, refuses and says."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.planted_difference import main, share, table, write_images
from unbox.shapes.detector import Detector


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--factor colour --value crimson --drawn blue", "--value crimson: no colour; there are red"),
        ("--factor shape --value heart --drawn blue", "--drawn blue: no shape; there are circle"),
        (
            "--factor light --value dim --drawn bright",
            "--factor light: no factor of objects; there are shape",
        ),
        ("--factor colour --value red --drawn red", "--drawn red: the value itself"),
    ],
)
def test_what_cannot_be_planted_is_refused_before_anything_is_drawn(
    tmp_path, capsys, monkeypatch, options, said
):
    monkeypatch.setattr("sys.argv", ["planted_difference", "--out", str(tmp_path / "out"), *options.split()])
    with pytest.raises(SystemExit):
        main()
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_half_of_the_captions_say_the_value_and_the_other_is_drawn(tmp_path):
    for name, drawn in (("said", "red"), ("planted", "blue")):
        write_images(tmp_path / name, 12, "colour", "red", drawn, 128, seed=3)
    captions = [sorted((tmp_path / name).glob("*.txt")) for name in ("said", "planted")]
    texts = [[file.read_text() for file in files] for files in captions]
    assert len(texts[0]) == 12
    assert texts[0] == texts[1]
    pictures = [[Image.open(file.with_suffix(".png")) for file in files] for files in captions]
    changed = [not np.array_equal(one, other) for one, other in zip(*pictures, strict=True)]
    assert sum(changed) == 6
    reader = Detector.load()
    colours = [[{slot["colour"] for slot in r["slots"]} for r in reader.read(each)] for each in pictures]
    for said, planted, other in zip(*colours, changed, strict=True):
        assert ("red" in said) is other
        assert "red" not in planted
        assert not other or "blue" in planted


def test_a_share_of_nothing_is_none():
    assert share([]) is None
    assert share([True, False, False, True]) == 0.5


def test_the_table_has_a_row_a_block():
    red = {"first": 1, "by_chance": 0.0098, "first_in_splits": [3, 80, 83]}
    blue = {"first": 4, "by_chance": 0.0387, "first_in_splits": [2, 61]}
    blocks = {"up.0.1": {"ranks": {"red": red, "blue": blue}, "changed_family": 7}}
    assert table(blocks, "red", "blue") == [
        "| block | red | by chance | in splits | blue | by chance | in splits | family-wise p < .05 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| up.0.1 | 1 | 0.010 | 80, 3 | 4 | 0.039 | 31.5, 2 | 7 |",
    ]
