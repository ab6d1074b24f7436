"""What may stand in a prompt: one rule for files, pages, the command line and Python."""

import pytest

from unbox.capture import read_prompts
from unbox.errors import UnboxError
from unbox.explorer import limits
from unbox.models.calls import Call, image_calls
from unbox.prompt import Prompt
from unbox.validation import Text, checked

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"


@pytest.mark.parametrize("text", [FAMILY, PERSIAN, ENGLAND, "a\u200fb\u00ad", "Käse", "e\u0301", "\ue000"])
def test_joiners_and_marks_are_text_behind_every_door(tmp_path, text):
    (tmp_path / "p.txt").write_text(text, encoding="utf-8")
    assert checked(Text, "it", text) == checked(limits.Prompt, "it", text) == text
    assert [p.text for p in read_prompts(str(tmp_path / "p.txt"))] == [text]
    assert [each.prompt for each in image_calls(Prompt(text), Call())] == [text]


@pytest.mark.parametrize(
    "text", ["a\0", "bell\x07", "\x1b[1m", "a\x1fb", "a\x0bb", "\x7f", "\x85", "\ud800", "\ufeff"]
)
def test_control_characters_are_refused_behind_every_door(tmp_path, text):
    (tmp_path / "p.txt").write_bytes(b"x " + text.encode("utf-8", "surrogatepass"))
    for door in (
        lambda: checked(Text, "it", text),
        lambda: Prompt(text),
        lambda: checked(limits.Prompt, "it", text),
        lambda: image_calls(text, Call()),
        lambda: image_calls("a", Call(negative_prompt=text)),
        lambda: list(read_prompts(str(tmp_path / "p.txt"))),
    ):
        with pytest.raises(UnboxError, match=r"control character|not in UTF-8"):
            door()


def test_what_is_no_text_is_named():
    with pytest.raises(UnboxError, match="prompt = 7: should be a text"):
        image_calls(["a dog", 7], Call())  # type: ignore[list-item]


def test_facts_are_an_object():
    facts = {"scene": [1, 2]}
    assert Prompt("a", facts).meta is facts
    with pytest.raises(UnboxError, match="Prompt: meta = 3: should be an object"):
        Prompt("a", 3)
