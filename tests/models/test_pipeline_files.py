"""Which files are needed, from tables of names as repositories and folders have them; and such folders,
loaded."""

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tests.models.tiny import tiny_unet
from unbox.errors import UnboxError
from unbox.models import load, weight_hash
from unbox.models.hub import quiet, whole
from unbox.models.pipeline_files import chosen, component_weights, pipeline_files

SHARDS = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
INDEX = "diffusion_pytorch_model.safetensors.index.json"
HALF_SHARDS = [f"diffusion_pytorch_model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
OLD_SHARDS = [f"diffusion_pytorch_model-0000{i}-of-00002.fp16.safetensors" for i in (1, 2)]
HALF_INDEX = "diffusion_pytorch_model.safetensors.index.fp16.json"


@pytest.mark.parametrize(
    ("names", "variant", "files"),
    [
        (["model.safetensors", "model.fp16.safetensors", "model.onnx"], "fp16", ["model.fp16.safetensors"]),
        (["model.safetensors", "pytorch_model.bin"], "", ["model.safetensors"]),
        (["model.bf16.safetensors", "model.bf16.bin"], "bf16", ["model.bf16.safetensors"]),
        (["model.non_ema.safetensors", "model.bf16.safetensors"], "bf16", ["model.bf16.safetensors"]),
        ([*SHARDS, INDEX], "", [*SHARDS, INDEX]),
        ([*SHARDS, INDEX, *HALF_SHARDS, HALF_INDEX], "fp16", [*HALF_SHARDS, HALF_INDEX]),
        ([*OLD_SHARDS, HALF_INDEX], "fp16", [*OLD_SHARDS, HALF_INDEX]),
        ([*HALF_SHARDS[:1], HALF_INDEX, *SHARDS, INDEX], "", [*SHARDS, INDEX]),
    ],
)
def test_one_whole_set_is_taken(names, variant, files):
    found = chosen(names, "here")
    assert (found.variant, sorted(found.files), found.pickled) == (variant, sorted(files), False)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pytorch_model.bin", "config.json"], r"here holds its weights as pickles alone .*--allow-pickle"),
        (SHARDS, "here has only some shards of its weights, or not their index"),
        ([SHARDS[0], INDEX], "here has only some shards of its weights"),
        (
            ["config.json", "openvino_model.bin"],
            "here has no weights: it holds config.json, openvino_model.bin",
        ),
        ([], "here has no weights: it holds nothing"),
    ],
)
def test_what_is_no_whole_set_is_refused_by_what_is_there(names, message):
    with pytest.raises(UnboxError, match=message):
        chosen(names, "here")


def test_pickles_are_taken_where_they_are_asked_for_and_there_is_nothing_else():
    assert chosen(["pytorch_model.bin"], "here", allow_pickle=True).pickled
    assert not chosen(["pytorch_model.bin", "model.safetensors"], "here", allow_pickle=True).pickled
    assert [each.variant for each in component_weights(["pytorch_model.fp16.bin"])] == ["fp16"]


def test_the_other_components_follow_the_unet():
    index = {
        "_class_name": "X",
        "unet": ["diffusers", "U"],
        "vae": ["diffusers", "V"],
        "feature": [None, None],
    }
    both = ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"]
    paths = ["model_index.json", "unet/config.json", *(f"vae/{name}" for name in both), f"unet/{both[0]}"]
    found = pipeline_files([*paths, "README.md", "x.safetensors", "vae/notes.md"], index, "here")
    assert sorted(found.paths) == sorted(
        ["model_index.json", "unet/config.json", f"unet/{both[0]}", f"vae/{both[0]}"]
    )
    other = pipeline_files(paths, index, "here", without=["unet"])
    assert set(other.weights) == {"vae"}
    assert "unet/config.json" in other.paths


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    return tmp_path_factory.mktemp("layouts")


def same_unet(model):
    return weight_hash(model.unet) == weight_hash(tiny_unet())


def test_sharded_weights_of_a_variant(tiny, folder):
    place = shutil.copytree(tiny, folder / "shards")
    shutil.rmtree(place / "unet")
    with quiet():
        unet = UNet2DConditionModel.from_pretrained(tiny, subfolder="unet")
        unet.save_pretrained(place / "unet", variant="fp16", max_shard_size="20MB")
    assert len(list((place / "unet").glob("*-of-*.safetensors"))) > 1
    assert whole(place)
    assert same_unet(load(place))
    next((place / "unet").glob("*-of-*.safetensors")).unlink()
    assert not whole(place)
    with pytest.raises(UnboxError, match="in unet/, has only some shards"):
        load(place)


def test_bfloat16_alone_and_a_half_vae_beside_a_plain_unet(tiny, folder):
    place = shutil.copytree(tiny, folder / "bf16")
    with quiet():
        half = StableDiffusionXLPipeline.from_pretrained(tiny, dtype=torch.bfloat16)
        for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
            shutil.rmtree(place / name)
            getattr(half, name).save_pretrained(place / name, variant="bf16")
    model = load(place)
    assert model.dtype == torch.bfloat16
    assert weight_hash(model.unet) == weight_hash(tiny_unet().bfloat16())
    mixed = shutil.copytree(tiny, folder / "mixed")
    shutil.rmtree(mixed / "vae")
    with quiet():
        half.vae.to(torch.float16).save_pretrained(mixed / "vae", variant="fp16")
    assert same_unet(load(mixed))


def test_pickles_in_a_folder_are_read_only_when_asked_for(tiny, folder):
    place = shutil.copytree(tiny, folder / "pickles")
    for file in place.glob("*/*.safetensors"):
        kind = "pytorch_model" if file.stem == "model" else file.stem
        torch.save(load_file(file), file.with_name(f"{kind}.bin"))
        file.unlink()
    with pytest.raises(UnboxError, match="in unet/, holds its weights as pickles alone"):
        load(place)
    assert same_unet(load(place, allow_pickle=True))


def test_the_bases_unet_is_not_read_where_another_takes_its_place(tiny, folder):
    place = shutil.copytree(tiny, folder / "without")
    (place / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    save_file(tiny_unet(seed=5).state_dict(), folder / "unet.safetensors")
    model = load(place, unet=folder / "unet.safetensors")
    assert weight_hash(model.unet) == weight_hash(tiny_unet(seed=5))
    assert model.dtype == torch.float32
    assert not any(tensor.is_meta for tensor in (*model.unet.parameters(), *model.unet.buffers()))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"unet.mid.lora_A.weight": torch.zeros(1)}, r"but a LoRA: .*lora= \(--lora\)"),
        ({"model.diffusion_model.out.2.bias": torch.zeros(1)}, r"but a whole checkpoint .*\(--model\)"),
        ({"decoder.conv_in.bias": torch.zeros(1)}, "but a VAE"),
        (
            tiny_unet().state_dict() | {"conv_in.bias": torch.zeros(320)},
            r"another size than the base's: its conv_in.bias is \(320,\), not \(32,\)",
        ),
    ],
)
def test_a_file_that_is_no_unet_of_this_base_is_refused_by_what_it_is(tiny, tmp_path, tensors, message):
    save_file(tensors, tmp_path / "unet.safetensors")
    with pytest.raises(UnboxError, match=message):
        load(tiny, unet=tmp_path / "unet.safetensors")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cond_stage_model.transformer.x", "a checkpoint of Stable Diffusion 1 or 2"),
        ("first_stage_model.x", "without SDXL's text encoders"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_what_it_is(tmp_path, name, message):
    tensors = {"model.diffusion_model.out.2.bias": torch.zeros(1), name: torch.zeros(1)}
    save_file(tensors, tmp_path / "other.safetensors")
    torch.save(tensors, tmp_path / "other.ckpt")
    for file in ("other.safetensors", "other.ckpt"):
        with pytest.raises(UnboxError, match=message):
            load(tmp_path / file, config=tmp_path)


def changed(tiny, place, index=None, scheduler=None):
    """A copy of the tiny folder whose model_index.json, and scheduler, say something else."""
    folder = shutil.copytree(tiny, place)
    said = json.loads((folder / "model_index.json").read_text()) | (index or {})
    if scheduler is not None:
        said["scheduler"] = ["diffusers", scheduler]
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": scheduler}))
    (folder / "model_index.json").write_text(json.dumps(said))
    return folder


OTHERS = {
    "flux": ({"_class_name": "FluxPipeline"}, None, "is a FluxPipeline, by its model_index.json; what is"),
    "sd1": ({"_class_name": "StableDiffusionPipeline"}, None, "is a StableDiffusionPipeline, by its"),
    "unknown": ({"_class_name": "Mine"}, None, "is a Mine, by its model_index.json"),
    "inpaint": ({"_class_name": "StableDiffusionXLInpaintPipeline"}, None, "any of these, by image="),
    "encoder": ({"text_encoder": [None, None]}, None, r"64 channels, .* give 40 \(text_encoder_2 40"),
    "unet": ({"unet": ["diffusers", "MyUNet"]}, None, "unet is diffusers's MyUNet: diffusers and"),
    "flow": ({}, "FlowMatchEulerDiscreteScheduler", "ships FlowMatchEuler.* sample by betas.*--system"),
    "edm": ({}, "EDMDPMSolverMultistepScheduler", "ships EDMDPMSolverMultistepScheduler, which does not"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_a_pipeline_of_another_kind_is_refused_by_what_it_is(tiny, tmp_path, name):
    index, scheduler, message = OTHERS[name]
    with pytest.raises(UnboxError, match=message):
        load(changed(tiny, tmp_path / "other", index, scheduler))


def test_a_scheduler_that_samples_otherwise_is_replaced_by_a_systems(tiny, tmp_path):
    folder = changed(tiny, tmp_path / "flow", scheduler="FlowMatchEulerDiscreteScheduler")
    assert type(load(folder, system="sdxl-turbo").pipeline.scheduler).__name__.startswith("EulerAncestral")


def test_a_unet_of_nine_channels_is_refused(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "nine")
    settings = UNet2DConditionModel.load_config(folder / "unet") | {"in_channels": 9}
    with quiet():
        UNet2DConditionModel.from_config(settings).save_pretrained(folder / "unet")
    with pytest.raises(
        UnboxError, match=r"UNet of 9 input channels where latents have 4: one for inpainting"
    ):
        load(folder)
    layer = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)}
    save_file(layer, tmp_path / "nine.safetensors")
    with pytest.raises(UnboxError, match=r"nine.safetensors has a UNet of 9 input channels"):
        load(tmp_path / "nine.safetensors")


def test_a_folder_without_its_tokenizer_is_refused(tiny, tmp_path):
    """diffusers makes one of two words in its place."""
    folder = shutil.copytree(tiny, tmp_path / "copied")
    (folder / "tokenizer" / "merges.txt").unlink()
    for file in (folder / "tokenizer").glob("tokenizer.json"):
        file.unlink()
    with pytest.raises(UnboxError, match=r"in tokenizer/, has no tokenizer: it holds .*vocab.json"):
        load(folder)


def test_a_ckpt_of_a_unet_alone_says_where_it_goes(tmp_path):
    torch.save(tiny_unet().state_dict(), tmp_path / "unet.ckpt")
    with pytest.raises(UnboxError, match=r"but a UNet in diffusers' layout: .*\(--unet, --lora, --vae\)"):
        load(tmp_path / "unet.ckpt")


def test_a_vae_of_other_latents_or_none_is_refused(tiny, tmp_path):
    (tmp_path / "vae").mkdir()
    config = tmp_path / "vae" / "config.json"
    for settings, message in (
        ({"_class_name": "AutoencoderKL", "latent_channels": 16}, "a VAE of 16 latent channels; .* takes 4"),
        ({"_class_name": "UNet2DConditionModel"}, "no VAE that SDXL can use, but UNet2DConditionModel"),
    ):
        config.write_text(json.dumps(settings))
        with pytest.raises(UnboxError, match=message):
            load(tiny, vae=tmp_path)
    with pytest.raises(UnboxError, match=r"there is no VAE nothing: give a name \(fp16-fix, taesd\)"):
        load(tiny, vae="nothing")
    save_file(tiny_unet().state_dict(), tmp_path / "unet.safetensors")
    with pytest.raises(UnboxError, match="is no VAE, but a UNet"):
        load(tiny, vae=tmp_path / "unet.safetensors")


def test_a_vae_from_a_folder_takes_the_place_of_the_bases(tiny, tmp_path):
    from tests.models.tiny import tiny_vae

    tiny_vae(seed=9).save_pretrained(tmp_path / "vae")
    model = load(tiny, vae=tmp_path / "vae")
    assert weight_hash(model.pipeline.vae) == weight_hash(tiny_vae(seed=9))
