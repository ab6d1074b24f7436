"""Keywords of a function that are the fields of a class."""

import inspect

import pytest

from unbox.errors import UnboxError
from unbox.keyword_options import keyword_options
from unbox.validation import Count, validated


@validated(kw_only=True)
class Cups:
    tea: Count = 1
    milk: bool = False


@keyword_options(Cups, {"cha": "tea"})
def brew(pot: str, guests: int, cups: Cups) -> str:
    return f"{pot} for {guests}: {cups.tea}, {cups.milk}"


def test_fields_are_keywords_and_the_first_arguments_go_by_place_or_name():
    assert brew("blue", 2, tea=3) == brew(pot="blue", guests=2, tea=3) == "blue for 2: 3, False"
    assert list(inspect.signature(brew).parameters) == ["pot", "guests", "tea", "milk"]
    with pytest.raises(TypeError, match="missing a required argument: 'guests'"):
        brew("blue", tea=3)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"tea": 0}, UnboxError, r"^brew: tea = 0: should be at least 1$"),
        (
            {"mlik": True},
            TypeError,
            r"brew\(\) has no option mlik \(is it milk\?\); the options are tea, milk",
        ),
        ({"cha": 1, "tea": 1}, UnboxError, "cha is now called tea; give it once"),
    ],
)
def test_what_is_not_an_option_is_named(given, error, said):
    with pytest.raises(error, match=said):
        brew("blue", 2, **given)


def test_a_former_name_is_taken_with_a_warning():
    with pytest.warns(DeprecationWarning, match="cha= is now called tea="):
        assert brew("blue", 2, cha=2) == "blue for 2: 2, False"
