"""Options typed several times: LoRAs with their strengths; others are refused."""

import pytest

from unbox.cli.main import find, main, parse
from unbox.cli.repeated_options import refuse_repeated, several_loras, with_options
from unbox.errors import UnboxError

SAID = {
    "--lora A:0.8 --lora B": (("A", ("B",)), (0.8, 1.0)),
    "--lora=A --prompt x --lora=B:-.5 --lora C": (("A", ("B", "C")), (1.0, -0.5, 1.0)),
    "--lora A:2": (("A", ()), (2.0,)),
    "--lora A": (("A", ()), ()),
    "--lora A --add-lora B --lora-strength 1 0.5": (("A", ("B",)), (1.0, 0.5)),
}


@pytest.mark.parametrize("command", ["generate", "app", "verify", "collect"])
@pytest.mark.parametrize("words", SAID)
def test_loras_with_strengths(command, words):
    needed = {"generate": ["--prompt", "x"], "collect": ["--prompts", "p.txt", "--store", "s"]}
    rest = several_loras([*words.replace("--prompt x", "").split(), *needed.get(command, [])])
    refuse_repeated(command, rest)
    model = parse(find([command])[0], rest).model
    (first, more), strengths = SAID[words]
    assert (str(model.lora), tuple(map(str, model.add_lora))) == (first, more)
    assert model.lora_strength == strengths


def test_a_colon_in_the_name_of_a_file_that_is_there(tmp_path):
    (tmp_path / "style:2").write_text("")
    assert several_loras(["--lora", f"{tmp_path}/style:2"]) == ["--lora", f"{tmp_path}/style:2"]
    with pytest.raises(UnboxError, match="--lora-strength says again what --lora B does"):
        several_loras(["--lora", "A", "--lora", "B", "--lora-strength", "1", "2"])


@pytest.mark.parametrize(
    "words",
    ["--seed 1 --seed 2", "--seed=1 --seed 2", "--batch-size 1 --batch_size 2", "--compile --no-compile"],
)
def test_another_option_twice_is_refused(words, capsys):
    assert main(["generate", "--prompt", "x", *words.split()]) == 2
    assert " is given 2 times, of which one alone would count" in capsys.readouterr().err


def test_the_line_that_goes_on_has_an_option_once():
    typed = ["label", "--limit=5", "--features", "mid.0/1", "mid.0/2", "--atlas", "a"]
    assert with_options(typed, ()) == typed
    assert with_options(typed, ["--limit", "3"]) == ["label", *typed[2:], "--limit", "3"]
    left = ["--features", "mid.0/2"]
    assert with_options(typed, left) == ["label", "--limit=5", "--atlas", "a", *left]
