import numpy as np
import pytest
from PIL import Image

from unbox.errors import UnboxError
from unbox.experiments.experiment_plan import _prompts, make_plan, read_plan
from unbox.prompt import Prompt


def test_prompts_of_a_file_are_read_as_everywhere(tmp_path):
    (tmp_path / "p.txt").write_text("a dog\n\n  a cat \n", encoding="utf-8")
    (tmp_path / "p.csv").write_text("caption,n\na dog,1\n", encoding="utf-8")
    assert _prompts({"file": "p.txt"}, tmp_path) == (Prompt("a dog"), Prompt("a cat"))
    assert _prompts({"file": "p.csv"}, tmp_path) == (Prompt("a dog", {"n": "1"}),)
    with pytest.raises(UnboxError, match=r"no file of prompts at .*none\.txt"):
        _prompts({"file": "none.txt"}, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "has no model; it needs model, prompts and"),
        (b"a = \n", r"is not valid TOML: .*\(at line 1, column 5\)"),
        ("model = 'm'".encode("utf-16"), "is in UTF-16"),
        (b"model = 'm'\nguidance = nan\n", "guidance = nan is not a finite number"),
        (
            b"model = 'm'\nprompts = [3]\nedit = [{block = 'mid.0', op = 'scale', value = 0}]\n",
            r"prompts\[0\]: text = 3: should be a text",
        ),
    ],
)
def test_a_file_that_is_no_experiment_is_named(tmp_path, text, message):
    (tmp_path / "e.toml").write_bytes(text)
    with pytest.raises(UnboxError, match=message) as caught:
        read_plan(tmp_path / "e.toml")
    assert "e.toml" in str(caught.value)


def test_a_mask_file_is_read_as_it_looks(tmp_path):
    alpha = np.zeros((4, 6), np.uint8)
    alpha[:2] = 255
    Image.fromarray(np.dstack([np.full((4, 6, 3), 255, np.uint8), alpha])).save(tmp_path / "mask.png")
    table = {"block": "mid.0", "op": "scale", "value": 0.0, "where": {"image": "mask.png"}}
    edit = {"model": "m", "prompts": ["a"], "edit": [table]}
    (condition,) = make_plan(edit, tmp_path).conditions
    assert np.array_equal(condition.edits[0].where.array, alpha.astype(np.float32) / 255)
    (tmp_path / "mask.png").write_text("no picture")
    with pytest.raises(UnboxError, match=r"mask\.png is not a picture"):
        make_plan(edit, tmp_path)
