"""Weights put over a base: UNet files and LoRAs in the layouts that the systems publish them in."""

import pickle
from dataclasses import replace

import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from tests.models.tiny import tiny_unet
from unbox.errors import UnboxError
from unbox.models import SYSTEMS, hub, load, weight_hash
from unbox.models.systems import Part

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
RANK, ALPHA = 4, 2.0


def everything(unet):
    """What SDXL-Lightning's LoRAs adapt: all convolutions and linears but the ends and the time embedding."""
    ends = ("conv_in", "conv_out", "time_embedding", "add_embedding")
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    return [
        name for name, part in unet.named_modules() if isinstance(part, kinds) and not name.startswith(ends)
    ]


def attentions(unet):
    """What NCP-DPO's LoRA adapts."""
    return [name for name in everything(unet) if name.endswith(ATTENTION)]


def pairs(unet, names):
    """{name: (down, up)} of random half-precision factors, shaped as LoRA shapes them."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name in names:
        rows, *columns = unet.get_submodule(name).weight.shape
        down = torch.randn(RANK, *columns, generator=generator).half()
        up = torch.randn(rows, RANK, *(1 for _ in columns[1:]), generator=generator) * 0.02
        found[name] = down, up.half()
    return found


def kohya(factors):
    """SDXL-Lightning's layout, as kohya's trainer writes it: underscores, and alpha as a tensor."""
    state = {}
    for name, (down, up) in factors.items():
        key = f"lora_unet_{name.replace('.', '_')}"
        state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        state[f"{key}.alpha"] = torch.tensor(ALPHA).half()
    return state


def peft(factors):
    """peft's names, as diffusers saves them now."""
    state = {}
    for name, (down, up) in factors.items():
        state |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    return state


def older(factors):
    """diffusers' names, as its training scripts of 2024 save them."""
    plain = {key.removeprefix("unet."): tensor for key, tensor in peft(factors).items()}
    return {f"unet.{key}": tensor for key, tensor in convert_state_dict_to_diffusers(plain).items()}


def merged(unet, factors, scale):
    """The UNet with scale * up @ down added to its weights."""
    with torch.no_grad():
        for name, (down, up) in factors.items():
            weight = unet.get_submodule(name).weight
            weight += scale * (up.float().flatten(1) @ down.float().flatten(1)).view_as(weight)
    return unet


def forward(unet):
    """The UNet's answer to a fixed input."""
    generator = torch.Generator().manual_seed(1)
    x, context, pooled = (
        torch.randn(shape, generator=generator) for shape in ((1, 4, 16, 16), (1, 7, 64), (1, 32))
    )
    added = {"text_embeds": pooled, "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]])}
    with torch.no_grad():
        return unet(x, 500.0, encoder_hidden_states=context, added_cond_kwargs=added).sample


@pytest.mark.parametrize(
    ("system", "layout", "adapted", "scale"),
    [
        ("sdxl-lightning-4step-lora", kohya, everything, ALPHA / RANK),
        ("hyper-sd-2step-lora", kohya, everything, ALPHA / RANK),
        ("sdxl-ncp-dpo", peft, attentions, 1.0),
        ("sdxl-ncp-dpo", older, attentions, 1.0),
    ],
)
def test_a_lora_in_its_published_layout_adds_its_product(tiny, tmp_path, system, layout, adapted, scale):
    plain = tiny_unet()
    factors = pairs(plain, adapted(plain))
    path = tmp_path / (SYSTEMS[system].parts[0].file or "pytorch_lora_weights.safetensors")
    save_file({key: tensor.contiguous() for key, tensor in layout(factors).items()}, path)
    model = load(tiny, system=replace(SYSTEMS[system], size=64), lora=path, download=False)
    assert model.adapters == ("lora",)
    before = forward(plain)
    expected = forward(merged(plain, factors, scale))
    assert (expected - before).std() > 0.05 * before.std()
    torch.testing.assert_close(forward(model.unet), expected, atol=1e-4, rtol=1e-4)
    with model.unadapted():
        torch.testing.assert_close(forward(model.unet), before, atol=1e-6, rtol=1e-5)


def test_several_loras_add_their_products_by_their_strengths(tiny, tmp_path):
    plain = tiny_unet()
    own, style = pairs(plain, attentions(plain)), pairs(plain, attentions(plain)[:20])
    files = tmp_path / "own.safetensors", tmp_path / "style.safetensors"
    for path, factors in zip(files, (own, style), strict=True):
        save_file({key: tensor.contiguous() for key, tensor in peft(factors).items()}, path)
    row = replace(SYSTEMS["sdxl-ncp-dpo"], size=64)
    model = load(
        tiny, system=row, lora=files[0], add_lora=[files[1]], lora_strength=(0.5, -2), download=False
    )
    assert model.adapters == ("lora", "lora2")
    assert model.fingerprint["strengths"] == {"lora": 0.5, "lora2": -2.0}
    expected = forward(merged(merged(plain, own, 0.5), style, -2.0))
    torch.testing.assert_close(forward(model.unet), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(UnboxError, match="lora_strength has 1 numbers for 2 LoRAs"):
        load(tiny, system=row, lora=files[0], add_lora=files[1], lora_strength=0.5)
    with pytest.raises(UnboxError, match="there is no LoRA at nowhere"):
        load(tiny, add_lora="nowhere")


def test_a_part_may_come_with_the_package(tiny, tmp_path, monkeypatch):
    """A system whose LoRA is `bundled:NAME`: nothing is fetched, and where it lacks its place is named."""
    place = tmp_path / "small-1step"
    monkeypatch.setattr(hub, "bundled_folder", lambda reference: tmp_path / reference.partition(":")[2])
    part = Part("lora", f"bundled:{place.name}", "")
    row = replace(SYSTEMS["sdxl-ncp-dpo"], size=64, base="bundled:tiny", parts=(part,))
    (tmp_path / "tiny").symlink_to(tiny)
    with pytest.raises(UnboxError, match="bundled weights of small-1step are not in this installation"):
        load(tiny, system=row)
    assert not hub.present(row)
    place.mkdir()
    plain = tiny_unet()
    factors = pairs(plain, attentions(plain))
    layers = {key: tensor.contiguous() for key, tensor in peft(factors).items()}
    save_file(layers, place / "pytorch_lora_weights.safetensors")
    assert row.needs == []
    assert hub.present(row)
    expected = forward(merged(plain, factors, 1.0))
    torch.testing.assert_close(forward(load(tiny, system=row).unet), expected, atol=1e-4, rtol=1e-4)


def test_older_names_are_not_pefts():
    """Or the two layouts above would be one."""
    unet = tiny_unet()
    unet.add_adapter(LoraConfig(r=1, target_modules=["to_q"]))
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    assert all(key.endswith(("lora.down.weight", "lora.up.weight")) for key in state)


def test_a_unet_published_as_a_pickle(tiny, tmp_path):
    """DMD2's way: diffusers' names in half precision in a `.bin`."""
    path = tmp_path / SYSTEMS["dmd2-1step"].parts[0].file
    state = {key: tensor.half() for key, tensor in tiny_unet(seed=5).state_dict().items()}
    torch.save(state, path)
    model = load(tiny, system=replace(SYSTEMS["dmd2-1step"], size=64), unet=path, download=False)
    assert weight_hash(model.unet) == weight_hash(tiny_unet(seed=5).half().float())
    (image,) = model.generate("a cat", seed=1)
    assert image.size == (64, 64)


class Program:
    """Runs when it is unpickled by a reader that is not careful."""

    ran = False

    def __reduce__(self):
        return setattr, (Program, "ran", True)


def test_a_pickle_that_is_a_program_is_not_run(tiny, tmp_path):
    path = tmp_path / "unet.bin"
    torch.save({"conv_in.weight": Program()}, path)
    with pytest.raises(UnboxError, match=r"unet.bin is not a pickle of tensors alone.*safetensors"):
        load(tiny, unet=path)
    assert not Program.ran
    pickle.loads(pickle.dumps(Program()))
    assert Program.ran


def test_weights_that_are_cut_short_are_named(tiny, tmp_path):
    for kind in ("unet", "lora"):
        path = tmp_path / f"{kind}.safetensors"
        path.write_bytes(b"hello" * 9)
        with pytest.raises(UnboxError, match=rf"{kind}.safetensors could not be loaded .* incomplete"):
            load(tiny, **{kind: path})


def test_a_published_file_tells_how_it_is_sampled(tiny, tmp_path):
    one, four = (tmp_path / SYSTEMS[f"sdxl-lightning-{n}step"].parts[0].file for n in (1, 4))
    for path in (one, four):
        save_file(tiny_unet().state_dict(), path)
    base = replace(SYSTEMS["sdxl-base"], size=64)
    with pytest.raises(
        UnboxError, match="published for sdxl-lightning-1step, and 'sdxl-base' samples another"
    ):
        load(tiny, system=base, unet=one)
    with pytest.warns(UserWarning, match="add system='sdxl-lightning-4step'"):
        load(tiny, system=base, unet=four)
    load(tiny, system=replace(SYSTEMS["sdxl-lightning-4step"], size=64), unet=four)
    untold = tmp_path / "pytorch_lora_weights.safetensors"  # LCM's and TCD's, and of any trainer
    unet = tiny_unet()
    save_file(peft(pairs(unet, attentions(unet)[:1])), untold)
    load(tiny, system=base, lora=untold)
    load(
        tiny, system=replace(SYSTEMS["sdxl-lightning-2step"], size=64), unet=four
    )  # the steps warn, when taken


def test_a_unet_is_no_checkpoint(tiny, tmp_path):
    path = tmp_path / "unet.safetensors"
    save_file(tiny_unet().state_dict(), path)
    with pytest.raises(
        UnboxError,
        match=r"no whole checkpoint .* but a UNet in .* no model.diffusion_model.\*; .*unet=, lora=",
    ):
        load(path, config=tiny)
