import pytest

from unbox.errors import UnboxError
from unbox.experiments.experiment_plan import _prompts
from unbox.prompt import Prompt


def test_prompts_of_a_file_are_read_as_everywhere(tmp_path):
    (tmp_path / "p.txt").write_text("a dog\n\n  a cat \n", encoding="utf-8")
    (tmp_path / "p.csv").write_text("caption,n\na dog,1\n", encoding="utf-8")
    assert _prompts({"file": "p.txt"}, tmp_path) == (Prompt("a dog"), Prompt("a cat"))
    assert _prompts({"file": "p.csv"}, tmp_path) == (Prompt("a dog", {"n": "1"}),)
    with pytest.raises(UnboxError, match=r"no file of prompts at .*none\.txt"):
        _prompts({"file": "none.txt"}, tmp_path)
