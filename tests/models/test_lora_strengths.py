"""LoRA strengths of their own for the images of a batch, against runs one by one at a loaded strength."""

import warnings
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig

import unbox
from unbox.errors import UnboxError
from unbox.models import SYSTEMS, Model, load

CALL = {"steps": 2, "guidance": 3.0, "output": "latent", "seed": 1}


@pytest.fixture(scope="module")
def adapted(tiny) -> Model:
    """The tiny SDXL with two LoRAs on UNet and text encoders, the second with rsLoRA's scale."""
    row = replace(SYSTEMS["sdxl-base"], size=64, scheduler_config={"timestep_spacing": "trailing"})
    model = load(tiny, system=row)
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # peft: a second adapter
        _adapt(model)
    model.pipeline.set_adapters(["one", "two"])
    return model


def _adapt(model):
    for name, rslora in (("one", False), ("two", True)):
        config = LoraConfig(
            r=4, lora_alpha=2, use_rslora=rslora, init_lora_weights=False,
            target_modules=["to_q", "to_v", "conv1", "time_emb_proj", "proj_in"],
        )  # fmt: skip
        model.unet.add_adapter(config, name)
        text = LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj"])
        model.pipeline.text_encoder.add_adapter(text, name)


def loaded_at(model, one, two):
    """Latents with the strengths set as diffusers sets them."""
    model.pipeline.set_adapters(["one", "two"], [one, two])
    try:
        return model.generate("a cat", **CALL)[0]
    finally:
        model.pipeline.set_adapters(["one", "two"], [1.0, 1.0])


def off(first, second):
    return float((first - second).abs().max() / second.std())


def test_each_image_has_its_own_strengths(adapted):
    strengths = [{"one": 0.5, "two": -1.0}, {"one": 0.0}, None]
    before = adapted.identity
    made = adapted.generate("a cat", lora_strengths=strengths, **CALL)
    for latents, (one, two) in zip(made, ((0.5, -1.0), (0.0, 1.0), (1.0, 1.0)), strict=True):
        assert off(latents, loaded_at(adapted, one, two)) < 3e-5
    assert off(made[0], made[1]) > 0.01
    assert adapted.identity == before


def test_one_mapping_is_for_every_image_and_is_taken_off_after(adapted):
    plain = adapted.generate("a cat", **CALL)[0]
    (weak,) = adapted.generate("a cat", lora_strengths={"one": 0.25, "two": 0.25}, **CALL)
    assert torch.equal(weak, loaded_at(adapted, 0.25, 0.25))
    assert torch.equal(adapted.generate("a cat", **CALL)[0], plain)
    with unbox.record(adapted, ["mid.0"]):
        (recorded,) = adapted.generate("a cat", lora_strengths={"one": 0.25, "two": 0.25}, **CALL)
    assert torch.equal(recorded, weak)


def test_refusals(adapted, model):
    with pytest.raises(UnboxError, match="the model has no LoRA 'three'; it has one, two"):
        adapted.generate("a cat", lora_strengths={"three": 1.0}, **CALL)
    with pytest.raises(UnboxError, match="it has none"):
        model.generate("a cat", lora_strengths={"one": 1.0}, **CALL)
    for wrong in ({"one": 11}, {"one": "x"}, [1.0], 3):
        with pytest.raises(UnboxError, match="lora_strengths"):
            adapted.generate("a cat", lora_strengths=wrong, **CALL)
