import numpy as np
import pytest
from PIL import Image

from unbox.errors import UnboxError
from unbox.experiments.experiment_plan import _prompts, make_plan
from unbox.prompt import Prompt


def test_prompts_of_a_file_are_read_as_everywhere(tmp_path):
    (tmp_path / "p.txt").write_text("a dog\n\n  a cat \n", encoding="utf-8")
    (tmp_path / "p.csv").write_text("caption,n\na dog,1\n", encoding="utf-8")
    assert _prompts({"file": "p.txt"}, tmp_path) == (Prompt("a dog"), Prompt("a cat"))
    assert _prompts({"file": "p.csv"}, tmp_path) == (Prompt("a dog", {"n": "1"}),)
    with pytest.raises(UnboxError, match=r"no file of prompts at .*none\.txt"):
        _prompts({"file": "none.txt"}, tmp_path)


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
