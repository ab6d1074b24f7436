"""Model, store and SAEs of different models: said once, by name; and nothing where they belong together."""

import warnings
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest

from unbox.errors import UnboxError
from unbox.model_mismatch import (
    ModelMismatchWarning,
    check_same_model,
    check_same_saes,
    recorded_run,
    unet_part,
)

TURBO = {
    "system": {"name": "shapes-turbo"},
    "scheduler": {"class": "Euler", "spacing": "trailing", "model_dtype": "float32"},
    "weights": {"unet": "a" * 64, "vae": "b" * 64, "text_encoder": "c" * 64},
    "adapters": [],
    "dtype": "float32",
}


def changed(**parts):
    """TURBO with some fields of its parts changed."""
    found = deepcopy(TURBO)
    for name, value in parts.items():
        found[name] = {**found.get(name, {}), **value} if isinstance(value, dict) else value
    return found


BASE = changed(system={"name": "shapes-base"}, weights={"unet": "d" * 64})


def model(fingerprint):
    return SimpleNamespace(fingerprint=fingerprint, unet_fingerprint=unet_part(fingerprint))


def store(fingerprint, path="acts"):
    return SimpleNamespace(path=Path(path), provenance={"model": fingerprint, "steps": 4})


def sae(fingerprint):
    return SimpleNamespace(meta={"provenance": {"model": unet_part(fingerprint)}})


ALL = {"model": model(TURBO), "store": store(TURBO)}
HALF = changed(dtype="float16", weights={"unet": "e" * 64}, scheduler={"model_dtype": "float16"})
#: What belongs together.
SAME = [
    ({"mid.0": sae(TURBO)}, ALL),
    ({"mid.0": sae(TURBO)}, {"model": model(TURBO)}),
    ({"mid.0": sae(TURBO)}, {"model": model(HALF)}),  # in other number formats nothing can be compared
    ({"mid.0": sae(HALF)}, {"store": store(TURBO)}),
    ({"mid.0": sae(TURBO)}, {"model": model(changed(scheduler={"class": "DDIM"}))}),  # updates are the UNet's
    ({"mid.0": SimpleNamespace(meta={})}, {"model": model(BASE)}),  # it was not recorded
    ({"mid.0": sae(BASE)}, {"store": SimpleNamespace(path="x", provenance={"system": "fake"})}),
    ({}, {"model": model(changed(scheduler={"new": 1})), "store": store(TURBO)}),  # diffusers' own words
]
#: What does not, and what is said of it.
OTHER = [
    (
        {"mid.0": sae(TURBO), "up.0.1": sae(TURBO), "up.1.1": sae(BASE)},
        {"model": model(BASE)},
        r"SAEs mid\.0, up\.0\.1 trained on shapes-turbo \(UNet aaaaaaaa\), the model is shapes-base \(UNet",
    ),
    ({"mid.0": sae(TURBO)}, {"store": store(BASE)}, r"SAE mid\.0 .*the store acts is of shapes-base"),
    ({}, {"model": model(BASE), "store": store(TURBO)}, "the store acts is of shapes-turbo .*another UNet"),
    ({}, {"model": model(changed(weights={"vae": "f"})), "store": store(TURBO)}, "another VAE"),
    ({}, {"model": model(changed(weights={"text_encoder": "f"})), "store": store(TURBO)}, "another text enc"),
    ({}, {"model": model(changed(scheduler={"class": "X"})), "store": store(TURBO)}, "another scheduler"),
    ({}, {"model": model(changed(adapters=["lora"])), "store": store(TURBO)}, "another LoRA"),
    (
        {"mid.0": sae(changed(adapters=["lora"]))},
        {"model": model(changed(adapters=["lora"], strengths={"lora": 0.5}))},
        "LoRA",
    ),
    ({"mid.0": sae(TURBO)}, {"model": model({**BASE, "dtype": "float16"})}, "the model is shapes-base"),
]


@pytest.mark.parametrize(("saes", "given"), SAME)
def test_what_belongs_together(saes, given):
    check_same_model(saes, **given, policy="refuse")


@pytest.mark.parametrize(("saes", "given", "message"), OTHER)
def test_what_does_not(saes, given, message):
    check_same_model(saes, **given, policy="allow")
    with pytest.raises(UnboxError, match=message) as refused:
        check_same_model(saes, **given, policy="refuse")
    with pytest.warns(ModelMismatchWarning, match=message) as warned:
        check_same_model(saes, **given)
    assert len(warned) == 1
    for text in (str(refused.value), str(warned[0].message)):
        assert "--model-mismatch allow" in text
        assert "\n" not in text


def test_a_merged_store_is_of_what_its_parts_agree_in():
    parts = [{"digest": "x", "provenance": {"model": TURBO, "steps": 4, "seed": seed}} for seed in (0, 1)]
    merged = {"merged": [parts[0], {"digest": "y", "provenance": {"merged": parts}}]}
    assert recorded_run(merged) == {"model": TURBO, "steps": 4}
    check_same_model(
        {"mid.0": sae(TURBO)}, store=SimpleNamespace(path="x", provenance=merged), policy="refuse"
    )
    with pytest.raises(UnboxError, match="shapes-turbo"):
        check_same_model(
            {"a": sae(BASE)}, store=SimpleNamespace(path="x", provenance=merged), policy="refuse"
        )


def test_saes_that_something_was_made_of():
    saes = {"mid.0": SimpleNamespace(identity="12345678ab"), "new": SimpleNamespace(identity="0")}
    check_same_saes({"mid.0": "12345678ab"}, saes, "the atlas x", "refuse")
    for policy in ("refuse", "warn"):
        with (
            warnings.catch_warnings(),
            pytest.raises((UnboxError, ModelMismatchWarning), match="was 87654321"),
        ):
            check_same_saes({"mid.0": "87654321ab"}, saes, "the atlas x", policy)
    check_same_saes({"mid.0": "87654321ab"}, saes, "the atlas x", "allow")
