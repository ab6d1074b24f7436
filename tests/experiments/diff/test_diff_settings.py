"""How systems are written, and what is refused."""

import pytest

from unbox.errors import UnboxError
from unbox.experiments.diff.diff_settings import DiffSettings, read_system, read_systems, store_names


def test_a_system_is_a_model_and_what_is_not_as_its_own():
    found = read_system("shapes-base,steps=4,guidance=2,lora=runs/x/lora,lora_strength=0.5,name=b")
    assert (found.model, found.steps, found.guidance, found.lora_strength) == ("shapes-base", 4, 2.0, 0.5)
    assert (str(found.lora), found.title) == ("runs/x/lora", "b")


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("shapes-turbo", "shapes-turbo"),
        ("shapes-turbo,steps=1", "shapes-turbo-1step"),
        ("a/b c/sdxl base,lora=runs/red blue/lora,steps=4", "sdxl-base-red-blue-4step"),
        ("owner/name,lora=x.safetensors", "name-x"),
    ],
)
def test_a_system_is_named_after_what_it_is_of(text, title):
    assert read_system(text).title == title


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (("a", "b,steps=0"), "steps = 0: should be at least 1"),
        (("a", "b,steps=x"), "steps = 'x': should be a whole number"),
        (("a", "b,stepz=1"), "stepz = '1': is unknown, is it steps?"),
        (("a", "b,steps"), "should be MODEL, and after commas"),
        (("a", "b,steps=1,steps=2"), "each of steps=, guidance=, lora=, name=, ... once"),
        (("a", ",steps=1"), "should begin with a model"),
        (("a",), "should be two systems at least"),
        (("a", "x/a"), "names two systems: give them names"),
        (("a", "b,name=c/d"), "should be a name of letters, digits"),
    ],
)
def test_what_is_no_system_is_refused(texts, told):
    with pytest.raises(UnboxError, match=told.replace("?", r"\?").replace(".", r"\.")):
        read_systems(texts)


def test_settings_fit_together():
    with pytest.raises(UnboxError, match="k is at most the latents, 8"):
        DiffSettings(k=9, latents=8)
    with pytest.raises(UnboxError, match="comparing 100,000 latents with 1,000,000 flips"):
        DiffSettings(latents=100_000, flips=1_000_000)


def test_stores_are_called_as_their_folders():
    assert store_names(("runs/a b/", "s3://bucket/acts")) == {"a-b": "runs/a b/", "acts": "s3://bucket/acts"}
    for places, told in ((("a",), "two stores at least"), (("x/a", "y/a"), "names two stores")):
        with pytest.raises(UnboxError, match=told):
            store_names(places)
