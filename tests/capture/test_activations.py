"""All that can be recorded, against what hooks of the tests' own see, and the formulas of the layers."""

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline
from peft import LoraConfig

import unbox
from activation_store import AlignedRows
from tests.capture.conftest import hook_count
from tests.models.tiny import tiny_refiner
from unbox import record
from unbox.capture import estimate
from unbox.capture.activations import activations_of, shape_of
from unbox.errors import UnboxError
from unbox.models import SYSTEMS, Model, load
from unbox.models.seeds import image_seed

PROMPTS = ["a dog", "a red house", "moon"]
#: Of images, where their size is of no account.
SMALL = {"height": 32, "width": 32}
CALL = {"seeds": [1, 2, 3], "steps": 2, "guidance": 5.0, "height": 64, "width": 64}


@contextmanager
def seen(network, *paths, inputs=False):
    """path -> what the module of that path was given (`inputs`) or gave, of every forward."""
    found, handles = defaultdict(list), []
    for path in paths:

        def keep(module, args, output, path=path):
            value = args[0] if inputs else output
            found[path].append(value[0] if isinstance(value, tuple) else value)

        handles.append(network.get_submodule(path).register_forward_hook(keep))
    yield found
    for handle in handles:
        handle.remove()


def steps(forwards):
    """(sample, step, branch, ...) of guided forwards, whose rows are all uncond, then all cond."""
    return torch.stack([torch.stack(rows.chunk(2)[::-1], 1) for rows in forwards], 1)


def places(maps):
    """(..., channels, y, x) as (..., y, x, channels)."""
    return maps.movedim(-3, -1)


def test_a_skip_connection_is_the_end_of_what_its_resnet_is_given(model):
    """Each resnet of the up side reads its input and the skip connection side by side."""
    names = [name for name, site in model.all_sites.items() if "skip" in site.kinds]
    assert names == [f"up.{level}.{i}" for level in range(3) for i in range(3)]
    paths = [f"up_blocks.{name[3]}.resnets.{name[5]}" for name in names]
    with seen(model.unet, *paths, inputs=True) as given, record(model, names, "skip") as tape:
        model.generate(PROMPTS, **CALL)
    for name, path in zip(names, paths, strict=True):
        skip = tape.read(name, "skip")
        whole = places(steps(given[path]))
        assert torch.equal(skip, whole[..., -skip.shape[-1] :])
        assert skip.shape[1:3] == (2, 2)
        (activation,) = activations_of(model, [name], ["skip"])
        assert skip.shape[3:] == shape_of(model, activation, 64, 64)


@pytest.mark.parametrize("block", ["down.1.0", "up.0.1"])
def test_what_heads_write_mixed_by_the_output_matrix_is_the_attention(model, block):
    """sum over heads of z_h W_O^h + b is what the attention module gives."""
    path, layers = model.site(block).path, [0, 1]
    paths = [f"{path}.transformer_blocks.{n}.{part}" for n in layers for part in ("attn1", "attn2", "ff")]
    with (
        seen(model.unet, *paths) as made,
        record(model, block, ("heads", "ff_input", "ff_output"), layers=layers) as tape,
    ):
        model.generate(PROMPTS, **CALL)
    side, heads = (16, 4) if block == "down.1.0" else (8, 8)
    for kind, part in (("self_heads", "attn1"), ("cross_heads", "attn2")):
        found = tape.read(block, kind)
        assert found.shape[:-1] == (3, 2, 2, 2, side, side, heads)
        for number in layers:
            attention = model.unet.get_submodule(f"{path}.transformer_blocks.{number}.{part}")
            z = found[:, :, :, number].flatten(3, 4)  # (sample, step, branch, position, head, channel)
            out = attention.to_out[0]
            by_head = out.weight.unflatten(1, (heads, -1))  # (width, head, channel)
            mixed = torch.einsum("...hc,dhc->...d", z, by_head.detach()) + out.bias.detach()
            truth = steps(made[f"{path}.transformer_blocks.{number}.{part}"])
            assert torch.allclose(mixed, truth, atol=1e-4)
    for number in layers:
        truth = steps(made[f"{path}.transformer_blocks.{number}.ff"])
        assert torch.equal(tape.read(block, "ff_output")[:, :, :, number].flatten(3, 4), truth)
        with torch.no_grad():
            ff = model.unet.get_submodule(f"{path}.transformer_blocks.{number}.ff")
            assert torch.allclose(
                ff(tape.read(block, "ff_input")[:, :, :, number]).flatten(3, 4), truth, atol=1e-5
            )


def test_layers_of_text_encoders_are_their_hidden_states(model):
    """Of both branches where there is a negative prompt; transformers gives the hidden states itself."""
    with record(model, ["text.1.2", "text.2.1"], ("update", "input", "output", "heads", "ff_output")) as tape:
        model.generate(PROMPTS, negative_prompt="a car", batch_size=2, **CALL)
    pipeline = model.pipeline
    for site, tokenizer, encoder, layer in (
        ("text.1.2", pipeline.tokenizer, pipeline.text_encoder, 2),
        ("text.2.1", pipeline.tokenizer_2, pipeline.text_encoder_2, 1),
    ):
        for branch, texts in (("cond", PROMPTS), ("uncond", ["a car"] * 3)):
            ids = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
            with torch.no_grad():
                hidden = encoder(ids, output_hidden_states=True).hidden_states
            output = tape.read(site, "output", branch)
            assert output.shape == (3, 1, 77, 24 if site == "text.1.2" else 40)
            assert torch.allclose(output[:, 0], hidden[layer + 1], atol=1e-5)
            assert torch.allclose(tape.read(site, "input", branch)[:, 0], hidden[layer], atol=1e-5)
            assert torch.allclose(
                tape.read(site, "update", branch)[:, 0], hidden[layer + 1] - hidden[layer], atol=1e-5
            )
    assert tape.read("text.2.1", "self_heads").shape == (3, 1, 2, 77, 4, 10)
    assert len(tape) == 3


def test_texts_of_several_calls_and_images_of_a_prompt_count_on_as_images_do(model):
    with record(model, ["text.1.0", "mid.0"], "output") as tape:
        call = {"num_inference_steps": 1, "guidance_scale": 0.0, "output_type": "latent"}
        model.pipeline(["a dog", "a cat"], num_images_per_prompt=2, **call)
        model.pipeline("a boat", **call)
    texts = tape.read("text.1.0", "output", "cond")
    assert len(texts) == len(tape.read("mid.0", "output")) == 5
    assert torch.equal(texts[0], texts[1])
    assert torch.equal(texts[2], texts[3])
    assert not torch.equal(texts[1], texts[2])
    with record(model, "text.1.0", "output") as alone:
        model.pipeline("a boat", **call)
    assert torch.equal(alone.read("text.1.0", "output", "cond")[0], texts[4])


def test_the_vae_is_recorded_whether_it_works_on_all_images_or_on_each(model, folder):
    sites, paths = ["vae.decoder.mid", "vae.decoder.up.0"], ["decoder.mid_block", "decoder.up_blocks.0"]
    vae = model.pipeline.vae
    with seen(vae, *paths) as made, record(model, sites, ("update", "input", "output")) as tape:
        model.generate(PROMPTS, batch_size=2, **CALL)
    for site, path in zip(sites, paths, strict=True):
        assert torch.equal(tape.read(site, "output")[:, 0, 0], places(torch.cat(made[path])))
    difference = tape.read("vae.decoder.mid", "output") - tape.read("vae.decoder.mid", "input")
    assert torch.equal(tape.read("vae.decoder.mid", "update"), difference)
    with pytest.raises(UnboxError, match=r"tape has no update of vae\.decoder\.up\.0"):
        tape.read("vae.decoder.up.0", "update")
    sliced = load(folder, device="cpu")
    sliced.pipeline.vae.enable_slicing()
    with record(sliced, sites, "output") as apart:
        sliced.generate(PROMPTS, batch_size=2, **CALL)
    assert torch.allclose(apart["vae.decoder.up.0"], tape.read("vae.decoder.up.0", "output"), atol=1e-4)
    sliced.pipeline.vae.enable_tiling()
    with pytest.raises(UnboxError, match=r"in tiles.*disable_tiling"), record(sliced, sites, "output"):
        pass
    with record(model, "vae.encoder.down.0", "output") as tape, torch.no_grad():
        for _ in range(2):
            vae.encode(torch.zeros(2, 3, 64, 64))
    assert tape["vae.encoder.down.0"].shape == (4, 1, 1, 32, 32, 16)


def test_recordings_in_each_other_see_the_same_texts(model):
    call = {"num_inference_steps": 1, "guidance_scale": 0.0, "output_type": "latent"}
    with record(model, "text.1.0", "output") as outer:
        with record(model, "text.1.0", "output") as inner:
            model.pipeline("a dog", **call)
        model.pipeline("a cat", **call)
    assert torch.equal(inner["text.1.0"][0], outer["text.1.0"][0])
    assert len(outer["text.1.0"]) == 2
    assert "encode_prompt" not in vars(model.pipeline)
    with pytest.raises(UnboxError, match="text_encoder was called outside of"):
        with record(model, "text.1.0", "output"), torch.no_grad():
            model.pipeline.text_encoder(torch.zeros(1, 77, dtype=torch.long))


def test_a_vae_that_decodes_more_than_the_run_has_is_refused(model):
    call = {"num_inference_steps": 1, "guidance_scale": 0.0, "output_type": "latent"}
    with record(model, "vae.decoder.mid", "output"), torch.no_grad():
        latents = model.pipeline(["a dog", "a cat"], **call).images
        with pytest.raises(UnboxError, match="decoder was given 4 images, and the run has 2"):
            model.pipeline.vae.decode(torch.cat([latents, latents]))


ALL = ("update", "input", "output", "heads", "skip", "ff_input", "ff_output")


@pytest.fixture(scope="module")
def everything(model, tmp_path_factory):
    blocks, run = ["down.2.1", "up.0.1", "up.2.1"], {"steps": 2, "guidance": 5.0, "seed": 9, "layers": [1]}
    run |= {"store_dtype": "float32", "batch_size": 3, "progress": False}
    return unbox.collect(model, PROMPTS, tmp_path_factory.mktemp("all") / "s", blocks=blocks, what=ALL, **run)


def test_a_store_holds_every_kind_as_recording_gives_it(model, everything):
    assert everything.blocks == (
        "down.2.1", "down.2.1.input", "down.2.1.output", "down.2.1.self_heads.1", "down.2.1.cross_heads.1",
        "down.2.1.ff_input.1", "down.2.1.ff_output.1",
        "up.0.1", "up.0.1.input", "up.0.1.output", "up.0.1.self_heads.1", "up.0.1.cross_heads.1",
        "up.0.1.ff_input.1", "up.0.1.ff_output.1", "up.0.1.skip",
        "up.2.1.skip",
    )  # fmt: skip
    seeds = [image_seed(9, i) for i in range(3)]
    with record(model, ["down.2.1", "up.0.1", "up.2.1"], ALL, layers=[1]) as tape:
        model.generate(PROMPTS, seeds=seeds, steps=2, guidance=5.0)
    for name in everything.blocks:
        site = next(each for each in ("down.2.1", "up.0.1", "up.2.1") if name.startswith(each))
        kind, _, layer = name.removeprefix(site).lstrip(".").partition(".")
        truth = tape.read(site, kind or "update")
        truth = truth[:, :, :, 0] if layer else truth
        found = everything[name].read_images(range(3))
        assert np.array_equal(found, truth.reshape(found.shape).numpy())


def test_a_transcoder_and_a_crosscoder_read_one_store(everything):
    """What goes into a block beside what it adds; and several blocks side by side."""
    pair = AlignedRows((everything["up.0.1.input"], everything["up.0.1"]))
    given, added = map(np.concatenate, zip(*(pair.split(x) for x in pair.batches(64)), strict=True))
    whole = {tuple(row[:8]): out for row, out in zip(given.round(4), given + added, strict=True)}
    inputs = everything["up.0.1.input"].read_images(range(3)).reshape(-1, 128)
    outputs = everything["up.0.1.output"].read_images(range(3)).reshape(-1, 128)
    for row, out in zip(inputs.round(4), outputs, strict=True):
        assert np.allclose(whole[tuple(row[:8])], out, atol=1e-5)
    several = AlignedRows((everything["down.2.1"], everything["up.0.1"], everything["up.0.1.cross_heads.1"]))
    assert several.width == 3 * 128


def test_a_store_of_texts_is_made_without_images(model, tmp_path):
    before, ran = hook_count(model), []
    handle = model.unet.register_forward_hook(lambda *_: ran.append(1))
    run = {"blocks": ["text.1.2", "text.2.0"], "what": ["output"], "store_dtype": "float32", "batch_size": 2}
    store = unbox.collect(model, PROMPTS, tmp_path / "s", progress=False, **run)
    with record(model, run["blocks"], "output") as tape:
        model.generate(PROMPTS, seed=0, steps=1, guidance=0)
    handle.remove()
    assert len(ran) == 1  # of recording alone
    assert hook_count(model) == before
    assert store.blocks == ("text.1.2.output", "text.2.0.output")
    assert store.schema.layout_of("text.1.2.output").layout == "tokens"
    assert store.schema.layout_of("text.1.2.output").stream == "text"
    for name, site in zip(store.blocks, run["blocks"], strict=True):
        found = store[name].read_images(range(3))
        assert found.shape == (3, 1, 1, 1, 77, 24 if site == "text.1.2" else 40)
        assert np.allclose(found[:, 0, :, 0], tape[site][:, 0].numpy(), atol=1e-5)
    assert store.thumbnail_or_empty(0) == b""
    with pytest.raises(UnboxError, match="leave out steps, which would do nothing"):
        unbox.collect(model, PROMPTS, tmp_path / "t", steps=1, **run)


def test_one_store_of_blocks_texts_and_the_vae(model, tmp_path):
    sites = ["mid.0", "text.2.1", "vae.decoder.mid"]
    run = {"blocks": sites, "steps": 2, "guidance": 5.0, "thumbnail": None, "positions": 5, "progress": False}
    store = unbox.collect(model, PROMPTS, tmp_path / "s", **run)
    assert [store[site].shape for site in sites] == [
        (3, 2, 2, 1, 5, 128), (3, 1, 1, 1, 5, 40), (3, 1, 1, 1, 5, 32),
    ]  # fmt: skip
    assert store["vae.decoder.mid"].steps == (0,)
    assert store["vae.decoder.mid"].branches == ("cond",)


def test_the_plan_says_the_bytes_of_each_kind(model):
    run = {"blocks": ["up.0.1", "text.1.0"], "what": ["update", "heads"], "layers": [0, 1], "steps": 2}
    run |= {"guidance": 5.0, "height": 32, "width": 32, "batch_size": 1, "images": 1}
    plan = estimate(model, PROMPTS, **run)
    assert sum(plan.bytes_of.values()) == plan.bytes_per_image
    lines = plan.lines()
    assert lines[0] == "up.0.1: (2, 2, 4, 4, 128) of each (step, branch, y, x, channel), 16.4 kB"
    assert lines[5] == "text.1.0: (1, 1, 77, 24) of each (step, branch, token, channel), 3.7 kB"
    # 2 steps x 2 branches x 16 places x 128 channels in float16 for each of two layers; a text's heads beside
    assert lines[7] == "an image: update 20.1 kB, self_heads 36.5 kB, cross_heads 32.8 kB; 89.3 kB in all"


@pytest.fixture(scope="module")
def ensemble(folder, tmp_path_factory):
    refiner = tiny_refiner(tmp_path_factory.mktemp("refiner"))
    row = replace(SYSTEMS["sdxl-base+refiner"], size=64, refiner=str(refiner), steps=5, guidance=5.0)
    row = replace(row, scheduler_config={"timestep_spacing": "trailing"})
    return load(folder, device="cpu", system=row)


def test_an_ensemble_is_recorded_up_to_the_split_and_its_refiner_from_there(ensemble, tmp_path):
    """split 0.8: four of five steps are the base model's."""
    path = "mid_block.attentions.0"
    run = {"thumbnail": None, "store_dtype": "float32", "progress": False, "batch_size": 2, **SMALL}
    with seen(ensemble.refiner.unet, path) as made, seen(ensemble.refiner.unet, path, inputs=True) as given:
        store = unbox.collect(ensemble, PROMPTS[:2], tmp_path / "s", blocks=["mid.0", "refiner.mid.0"], **run)
    truth = steps([out - given for out, given in zip(made[path], given[path], strict=True)])
    assert store["mid.0"].steps == (0, 1, 2, 3)
    assert store["refiner.mid.0"].steps == (4,)
    assert np.array_equal(store["refiner.mid.0"].read_images(range(2)), places(truth).numpy())
    with record(ensemble, ["mid.0", "refiner.mid.0"]) as tape:
        ensemble.generate(PROMPTS[:2], seeds=[sample.seed for sample in store.samples], **SMALL)
    assert tape.steps == (0, 1, 2, 3, 4)
    assert np.array_equal(tape["mid.0"].numpy(), store["mid.0"].read_images(range(2)))
    assert np.array_equal(tape["refiner.mid.0"].numpy(), store["refiner.mid.0"].read_images(range(2)))
    with pytest.raises(
        UnboxError, match="step 4 is one of the refiner's, 4 to 4, of which nothing is recorded"
    ):
        unbox.collect(ensemble, PROMPTS[:2], tmp_path / "t", blocks=["mid.0"], keep_steps=[3, 4], **run)
    some = unbox.collect(ensemble, PROMPTS[:2], tmp_path / "u", blocks=["mid.0"], keep_steps=[3], **run)
    assert np.array_equal(some["mid.0"].read(1), store["mid.0"].filter(steps=3).read(1))


def test_texts_of_an_ensemble_are_those_of_its_base(ensemble):
    """The refiner encodes the prompts again with the same encoder."""
    with record(ensemble, ["text.2.0", "vae.decoder.mid"], "output") as tape:
        ensemble.generate(PROMPTS[:2], seed=3, **SMALL)
    assert tape.read("text.2.0", "output", "cond").shape == (2, 1, 77, 40)
    assert len(tape["vae.decoder.mid"]) == 2


@pytest.mark.parametrize("what", ["cross", "self", "cross_heads", "ff_output"])
def test_inside_of_compiled_layers_nothing_is_recorded_silently(folder, what):
    model = load(folder, device="cpu")
    model.unet.compile_repeated_blocks(backend="eager")
    with pytest.raises(UnboxError, match=r"layers of this model are compiled .*mid.*; load without compile"):
        with record(model, "mid.0", ("update", what)):
            pass
    with record(model, "mid.0", ("update", "input", "output")):
        pass


@pytest.fixture
def control(folder):
    """A pipeline with a random ControlNet, whose last layers are not zero as they are before training."""
    pipeline = load(folder, device="cpu").pipeline
    torch.manual_seed(3)
    net = ControlNetModel.from_unet(
        pipeline.unet, conditioning_channels=3, conditioning_embedding_out_channels=(16, 32)
    )
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    parts = {
        name: part
        for name, part in pipeline.components.items()
        if name not in ("feature_extractor", "image_encoder")
    }
    with_control = StableDiffusionXLControlNetPipeline(**parts, controlnet=net, add_watermarker=False)
    return Model(with_control, load(folder, device="cpu").system)


def test_a_pipeline_with_a_controlnet(control):
    """What enters the up side is what the down side gave, and the control's part."""
    path, names = "up_blocks.0.attentions.1", ["up.0.1", "up.0.2"]
    picture = torch.rand(1, 3, 64, 64)
    call = {"num_inference_steps": 2, "guidance_scale": 5.0, "image": picture, "output_type": "latent"}
    resnets = ["up_blocks.0.resnets.1", "up_blocks.0.resnets.2"]
    with (
        seen(control.unet, *resnets, inputs=True) as entered,
        seen(control.unet, path, inputs=True) as given,
        seen(control.unet, path, "down_blocks.2.resnets.0", "down_blocks.2.attentions.0") as made,
        record(control, names, ("update", "skip")) as tape,
    ):
        control.pipeline("a dog", generator=torch.Generator().manual_seed(0), **call)
    update = steps([out - x for out, x in zip(made[path], given[path], strict=True)])
    assert torch.equal(tape["up.0.1"], places(update))
    for name, resnet in zip(names, resnets, strict=True):
        skip = tape.read(name, "skip")
        assert torch.equal(skip, places(steps(entered[resnet]))[..., -skip.shape[-1] :])
    plain = places(steps(made["down_blocks.2.attentions.0"]))  # of which up.0.1's skip is made
    assert not torch.allclose(tape.read("up.0.1", "skip"), plain, atol=1e-3)
    with record(control, "up.0.1", "skip") as off:
        control.pipeline(
            "a dog", generator=torch.Generator().manual_seed(0), controlnet_conditioning_scale=0.0, **call
        )
    assert torch.equal(off["up.0.1"][:, 0], plain[:, 0])
    assert not torch.allclose(off["up.0.1"], tape.read("up.0.1", "skip"), atol=1e-3)


@pytest.fixture
def pictured(folder):
    """A model with a random IP-Adapter, of pictures embedded in 16 numbers."""
    model, weights = load(folder, device="cpu"), {}
    torch.manual_seed(5)
    numbers = iter(range(1, 999, 2))
    for name in model.unet.attn_processors:
        if "attn2" in name:
            attention = model.unet.get_submodule(name.removesuffix(".processor"))
            shape, number = (attention.inner_dim, 64), next(numbers)
            weights |= {f"{number}.to_{part}_ip.weight": torch.randn(shape) * 0.2 for part in ("k", "v")}
    project = {"proj.weight": torch.randn(4 * 64, 16), "proj.bias": torch.zeros(4 * 64)}
    project |= {"norm.weight": torch.ones(64), "norm.bias": torch.zeros(64)}
    model.unet._load_ip_adapter_weights([{"image_proj": project, "ip_adapter": weights}])
    return model


@pytest.mark.parametrize(("name", "needs"), [("control", "ControlNet"), ("pictured", "IP-Adapter")])
def test_prompts_alone_are_not_enough_for_a_pipeline_that_needs_a_picture(request, tmp_path, name, needs):
    model = request.getfixturevalue(name)
    with pytest.raises(UnboxError, match=f"this model's {needs} needs a picture"):
        unbox.collect(model, PROMPTS, tmp_path / "s", progress=False)
    with pytest.raises(UnboxError, match=f"this model's {needs} needs a picture"):
        model.generate("a dog", seed=1)
    assert not (tmp_path / "s").exists()


def test_a_refiner_alone_is_recorded_around_its_pictures(tmp_path):
    model = load(tiny_refiner(tmp_path / "refiner"), device="cpu", system="sdxl-refiner")
    with pytest.raises(UnboxError, match=r"sdxl-refiner refines pictures.*inside unbox\.record"):
        unbox.collect(model, PROMPTS, tmp_path / "s", progress=False)
    assert not (tmp_path / "s").exists()
    sites = ["mid.0", "vae.encoder.mid", "text.2.1"]
    with record(model, sites, "output") as tape:
        for picture in torch.rand(2, 64, 64, 3).numpy():
            model.generate("a dog", seed=1, image=picture, steps=4, strength=0.5, guidance=5.0)
    assert [tape.read(site, "output", "cond").shape for site in sites] == [
        (2, 2, 8, 8, 128), (2, 1, 32, 32, 32), (2, 1, 77, 40),
    ]  # fmt: skip
    assert tape.steps == (2, 3)


def test_a_pipeline_with_an_ip_adapter(pictured):
    """Heads write the text's part and the picture's; maps are over the text's tokens."""
    path = "up_blocks.0.attentions.1"
    attention = f"{path}.transformer_blocks.0.attn2"
    embeds, noise = [torch.randn(2, 1, 16)], torch.randn(1, 4, 32, 32)
    call = {"num_inference_steps": 1, "guidance_scale": 5.0, "output_type": "latent"}
    with (
        seen(pictured.unet, path, attention) as made,
        seen(pictured.unet, path, inputs=True) as given,
        record(pictured, "up.0.1", ("update", "cross_heads", "cross"), layers=[0]) as tape,
    ):
        pictured.pipeline("a dog", ip_adapter_image_embeds=embeds, latents=noise.clone(), **call)
    update = steps([out - x for out, x in zip(made[path], given[path], strict=True)])
    assert torch.equal(tape["up.0.1"], places(update))
    out = pictured.unet.get_submodule(attention).to_out[0]
    heads = tape.read("up.0.1", "cross_heads")[:, :, :, 0]  # (sample, step, branch, y, x, head, channel)
    with torch.no_grad():
        mixed = out(heads.flatten(-2).flatten(3, 4))
    assert torch.allclose(mixed, steps(made[attention]), atol=1e-4)
    maps = tape.read("up.0.1", "cross")
    assert maps.shape == (1, 1, 2, 1, 8, 8, 8, 77)
    assert torch.allclose(maps.sum(-1), torch.ones(()), atol=1e-5)
    pictured.pipeline.set_ip_adapter_scale(0.0)
    with record(pictured, "up.0.1", "cross_heads", layers=[0]) as without:
        pictured.pipeline("a dog", ip_adapter_image_embeds=embeds, latents=noise.clone(), **call)
    assert not torch.allclose(without["up.0.1"][:, :, :, 0], heads, atol=1e-3)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_a_pipeline_with_several_loras(folder, tmp_path):
    """Each is kept with its name and strength; updates are those of the sum."""
    model, store = load(folder, device="cpu"), {}
    for name, seed in (("one", 1), ("two", 2)):
        torch.manual_seed(seed)
        config = LoraConfig(r=2, target_modules=["to_q", "to_v", "to_out.0"], init_lora_weights=False)
        model.unet.add_adapter(config, adapter_name=name)
    path, run = (
        "mid_block.attentions.0",
        {"blocks": ["mid.0"], "steps": 1, "guidance": 5.0, "progress": False},
    )
    run |= {"thumbnail": None, "store_dtype": "float32", "batch_size": 3}
    for strengths in ((1.0, 0.5), (0.5, 1.0)):
        model.pipeline.set_adapters(["one", "two"], list(strengths))
        with seen(model.unet, path) as made, seen(model.unet, path, inputs=True) as given:
            store[strengths] = unbox.collect(model, PROMPTS[:2], tmp_path / str(strengths), **run)
        truth = places(steps([out - x for out, x in zip(made[path], given[path], strict=True)]))
        assert np.array_equal(store[strengths]["mid.0"].read_images(range(2)), truth.numpy())
        assert store[strengths].provenance["model"]["adapters"] == ["one", "two"]
    assert not np.allclose(*(each["mid.0"].read(0) for each in store.values()), atol=1e-3)
    with pytest.raises(UnboxError, match="strength"):
        unbox.collect(model, PROMPTS[:2], tmp_path / "(1.0, 0.5)", **run)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"blocks": ["mid.7"]}, r"no block 'mid\.7'; it has down\.1\.0.*text\.1\.0\.\.2.*vae\.encoder\.mid"),
        ({"blocks": ["text.3.0"]}, "should be the name of a block, like .*, or of another site"),
        ({"blocks": ["refiner.mid.0"]}, r"no block 'refiner\.mid\.0'"),
        ({"blocks": ["mid.0"], "what": ["skip"]}, r"mid\.0 has no skip; it has update, input"),
        ({"blocks": ["up.2.0"]}, r"up\.2\.0 has no update; it has skip"),
        ({"blocks": ["vae.encoder.mid"]}, "made from noise, which the VAE's encoder has no part in"),
        ({"blocks": ["vae.decoder.up.0"]}, r"vae\.decoder\.up\.0 has no update; it has input, output"),
        ({"what": ["soul"]}, r"what\[0\] = 'soul': should be one of 'update'"),
        ({"blocks": ["mid.0"], "what": ["heads"], "layers": [3]}, "no transformer layer 3; it has 0 to 2"),
        ({"layers": [0]}, "layers are chosen for self_heads, .*; none is recorded"),
        ({"blocks": ["vae.decoder.mid"], "keep_steps": [0]}, "run once an image: leave out keep_steps"),
    ],
)
def test_what_cannot_be_collected_is_named(model, tmp_path, given, said):
    with pytest.raises(UnboxError, match=said):
        unbox.collect(model, PROMPTS, tmp_path / "s", progress=False, **given)
    assert not (tmp_path / "s").exists()
