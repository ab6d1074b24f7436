"""LoRA files that do not fit, in whole or in part, and what is said of them."""

import re

import pytest
import torch
from safetensors.torch import save_file

from tests.models.test_parts import ATTENTION, kohya, pairs, peft
from tests.models.tiny import tiny_unet
from unbox.errors import UnboxError
from unbox.models import load

MODULE = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def fitting():
    unet = tiny_unet()
    names = [name for name, _ in unet.named_modules() if name.endswith(ATTENTION)]
    return pairs(unet, names[:6])


def saved(path, state):
    save_file(
        {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}, path
    )
    return path


@pytest.mark.parametrize("layout", [kohya, peft])
def test_what_is_not_in_the_model_is_told_and_the_rest_is_put_on(tiny, tmp_path, fitting, layout):
    """Blocks of a deeper UNet: one of seven modules does not fit."""
    stray = {"up_blocks.1.attentions.7.transformer_blocks.0.attn1.to_q": next(iter(fitting.values()))}
    path = saved(tmp_path / "lora.safetensors", layout({**fitting, **stray}))
    with pytest.warns(
        UserWarning, match=r"1 of 7 modules of lora.safetensors are not in this model .* like unet.up_b"
    ):
        partly = load(tiny, lora=path)
    whole = load(tiny, lora=saved(tmp_path / "fits.safetensors", layout(fitting)))
    state = {name: tensor for name, tensor in partly.unet.state_dict().items() if "lora" in name}
    expected = {name: tensor for name, tensor in whole.unet.state_dict().items() if "lora" in name}
    assert state.keys() == expected.keys()
    assert len(state) == 2 * len(fitting)
    assert all(torch.equal(state[name], expected[name]) for name in state)
    scales = [
        {layer.scaling["lora"] for layer in model.unet.modules() if "lora" in getattr(layer, "scaling", {})}
        for model in (partly, whole)
    ]
    assert scales[0] == scales[1]


def test_one_of_another_architecture_is_refused_by_the_width_that_differs(tiny, tmp_path, fitting):
    wider = {
        f"unet.{MODULE}.lora_A.weight": torch.zeros(4, 768),
        f"unet.{MODULE}.lora_B.weight": torch.zeros(128, 4),
    }
    message = (
        rf"another architecture: unet.{re.escape(MODULE)} takes 768 channels there, and 128 in this model"
    )
    with pytest.raises(UnboxError, match=message):
        load(tiny, lora=saved(tmp_path / "wide.safetensors", {**peft(fitting), **wider}))
    flux = {
        f"transformer.single.{i}.lora_{side}.weight": torch.zeros(4, 4) for i in range(3) for side in "AB"
    }
    with pytest.raises(UnboxError, match=r"nothing of .* fits this model: .* like transformer.single.0"):
        load(tiny, lora=saved(tmp_path / "flux.safetensors", flux))


def test_a_text_encoders_part_for_a_layer_that_is_not_there_stays_unused(tiny, tmp_path, fitting):
    layer = "text_encoder.text_model.encoder.layers.9.self_attn.q_proj"
    stray = {f"{layer}.lora_A.weight": torch.zeros(4, 24), f"{layer}.lora_B.weight": torch.zeros(24, 4)}
    with pytest.warns(UserWarning, match=r"1 of 7 modules .* like text_encoder.*layers.9"):
        model = load(tiny, lora=saved(tmp_path / "lora.safetensors", {**peft(fitting), **stray}))
    assert model.adapters == ("lora",)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "a LoHa"),
        ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "a LoKr"),
        ("lora_unet_mid_block_attentions_0_proj_in.oft_diag", "an OFT"),
        ("model.diffusion_model.out.2.bias", "a whole checkpoint"),
        ("down_blocks.0.resnets.0.conv1.weight", "a UNet in diffusers' layout"),
    ],
)
def test_what_is_no_lora_is_refused_by_what_it_is(tiny, tmp_path, name, kind):
    path = saved(tmp_path / "other.safetensors", {name: torch.zeros(2, 2)})
    with pytest.raises(UnboxError, match=rf"other.safetensors is no LoRA, but {kind} .*only LoRAs"):
        load(tiny, lora=path)


def test_a_folder_of_several_files_is_not_guessed_from(tiny, tmp_path, fitting):
    for name in ("a", "b"):
        saved(tmp_path / f"{name}.safetensors", peft(fitting))
    with pytest.raises(UnboxError, match=r"holds a.safetensors, b.safetensors: name the one file"):
        load(tiny, lora=tmp_path)
