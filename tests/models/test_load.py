import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from tests.models.original_layout import save_original
from tests.models.tiny import tiny_pipeline, tiny_refiner, tiny_unet
from unbox.errors import UnboxError
from unbox.models import SYSTEMS, System, load, weight_hash
from unbox.models.hub import missing, present, quiet

TURBO = replace(SYSTEMS["sdxl-turbo"], size=64)


def image(model):
    return np.asarray(model.generate("a cat", seed=1, output="np")[0])


@pytest.fixture(scope="module")
def lora_file(tmp_path_factory):
    """A rank-4 LoRA with trained-looking weights on the attention projections, in the published layout."""
    unet = tiny_unet()
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    state = get_peft_model_state_dict(unet)
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(t.shape, generator=generator) * 0.2 for name, t in state.items()}
    folder = tmp_path_factory.mktemp("lora")
    StableDiffusionXLPipeline.save_lora_weights(folder, unet_lora_layers=state)
    return folder / "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def unet_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("unet") / "unet.safetensors"
    save_file(tiny_unet(seed=5).state_dict(), path)
    return path


def test_blocks_are_sdxls(tiny):
    model = load(tiny, system=TURBO)
    assert model.blocks == (
        *("down.1.0", "down.1.1", "down.2.0", "down.2.1", "mid.0"),
        *("up.0.0", "up.0.1", "up.0.2", "up.1.0", "up.1.1", "up.1.2"),
    )
    assert model.block("up.0.1") is model.unet.up_blocks[0].attentions[1]
    with pytest.raises(UnboxError, match=r"no block 'up.7.0'; it has down.1.0"):
        model.block("up.7.0")


def test_a_folder_without_a_row_is_sampled_as_it_ships(tiny):
    model = load(tiny)
    assert model.system.name == tiny.name
    assert (model.system.prediction, model.system.scheduler) == ("epsilon", "EulerDiscreteScheduler")
    assert model.size == 64
    assert model.pipeline.scheduler.config.timestep_spacing == "leading"


def test_a_folder_carries_its_own_row(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "mine")
    row = replace(TURBO, name="mine", base=None, timesteps={2: (999, 499)})
    row.save(folder)
    assert load(folder).system == row
    assert System.from_json(json.loads(json.dumps(row.to_json())), "here") == row
    (folder / "system.json").write_text(json.dumps({**row.to_json(), "stepz": 3}))
    with pytest.raises(UnboxError, match=r"system.json: stepz = 3: is unknown, is it steps"):
        load(folder)


@pytest.mark.parametrize("row", SYSTEMS.values(), ids=SYSTEMS)
def test_every_row_survives_json(row):
    assert System.from_json(json.loads(json.dumps(row.to_json())), "row") == replace(
        row, scheduler_config=dict(row.scheduler_config)
    )


def test_a_unet_file(tiny, unet_file):
    plain, changed = load(tiny, system=TURBO), load(tiny, system=TURBO, unet=unet_file)
    assert weight_hash(changed.unet) == weight_hash(tiny_unet(seed=5))
    assert not np.array_equal(image(plain), image(changed))
    folder = load(tiny, system=TURBO, unet=tiny)
    assert weight_hash(folder.unet) == weight_hash(plain.unet)


def test_a_unet_that_does_not_fit(tiny, tmp_path, unet_file):
    tensors = load_file(unet_file)
    tensors["surplus"] = tensors.pop("conv_in.bias")
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(
        UnboxError, match=r"1 tensors are missing \(like conv_in.bias\) and 1 unknown \(like surplus"
    ):
        load(tiny, unet=tmp_path / "wrong.safetensors")
    with pytest.raises(UnboxError, match="no unet file at nowhere"):
        load(tiny, unet="nowhere")


def test_a_lora_is_an_adapter(tiny, lora_file):
    plain, adapted = load(tiny, system=TURBO), load(tiny, system=TURBO, lora=lora_file)
    assert adapted.adapters == ("lora",)
    with_lora = image(adapted)
    assert np.abs(with_lora - image(plain)).max() > 0.01
    with adapted.unadapted():
        assert np.allclose(image(adapted), image(plain), atol=1e-5)
    assert np.array_equal(image(adapted), with_lora)
    assert "up.0.1" in adapted.blocks
    with pytest.raises(UnboxError, match="no LoRA adapter"), plain.unadapted():
        pass


def cached(cache, repo, source):
    """Put a file or folder into a Hub cache as one snapshot of `repo`."""
    place = cache / f"models--{repo.replace('/', '--')}"
    snapshot = place / "snapshots" / ("0" * 40)
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    if source.is_dir():
        shutil.copytree(source, snapshot)
    else:
        snapshot.mkdir(parents=True)
        shutil.copy(source, snapshot)
        (snapshot / "README.md").write_text("a LoRA")


def test_a_system_is_found_in_the_hubs_cache(tiny, lora_file, tmp_path, monkeypatch):
    """The rows' own route, base and part by repository, without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    row = SYSTEMS["sdxl-ncp-dpo"]
    assert not present(row)
    cached(tmp_path, row.base, tiny)
    with pytest.raises(UnboxError, match=r"looked for alexgambashidze/\S+ in .* Ready here: .*sdxl-base"):
        load("sdxl-ncp-dpo", download=False)
    cached(tmp_path, row.parts[0].repo, lora_file)
    assert present(row)
    model = load("sdxl-ncp-dpo", download=False)
    assert (model.system, model.adapters) == (row, ("lora",))
    assert load(row.base, download=False).system.name == "sdxl-base"


def test_half_a_download_is_not_taken_for_the_whole(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    row = SYSTEMS["sdxl-dpo"]
    assert missing(row) == row.needs
    cached(tmp_path, row.base, tiny)
    assert missing(row) == row.needs[1:]
    assert present(SYSTEMS["sdxl-base"])
    next(tmp_path.glob("*/snapshots/*/vae/*.safetensors")).unlink()
    assert missing(row) == row.needs
    with pytest.raises(UnboxError, match=r"snapshots/0+ is only a piece of it .*hf download \S+ --include"):
        load("sdxl-base", download=False)


ALONE = """
import socket, sys, warnings
warnings.simplefilter("error", UserWarning)
tried = []
def refuse(*address):
    tried.append(address)
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
import unbox
from unbox.errors import UnboxError
folder, file = sys.argv[1:]
for source, more in ((folder, {}), (file, {"config": folder}), (folder, {"unet": folder})):
    unbox.load(source, **more).generate("a cat", seed=1, steps=10, height=32, width=32)
unbox.load("shapes-turbo").generate("a red star", seed=1, steps=1)
assert not tried, tried
try:
    unbox.load("sdxl-turbo", download=False)
except UnboxError as error:
    assert not tried, tried
try:
    unbox.load("sdxl-turbo")
except UnboxError as error:
    assert tried, "the Hub was not asked"
    print(error)
"""


def test_what_is_here_needs_no_network(tmp_path):
    """In a process of its own, which is not told that it is offline: sockets refuse and count."""
    folder = tiny_pipeline(tmp_path / "tiny", layers_2=10)
    file = save_original(load(folder, system=TURBO).pipeline, tmp_path / "checkpoint.safetensors")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder), str(file)],
        capture_output=True,
        text=True,
        env=environment | {"HF_HOME": str(tmp_path / "hub")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.fullmatch(
        r"no weights: looked for stabilityai/sdxl-turbo in the cache at \S+/hub, and on the Hub: "
        r"\w+: no network. Fetch .*`hf download stabilityai/sdxl-turbo --include .*Ready here: shapes-turbo,"
        r" .*",
        done.stdout.strip(),
    )


def test_a_single_file(tmp_path):
    folder = tiny_pipeline(tmp_path / "tiny", layers_2=10)
    original = load(folder, system=TURBO)
    path = save_original(original.pipeline, tmp_path / "checkpoint.safetensors")
    single = load(path, system=TURBO, config=folder)
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        assert weight_hash(getattr(single.pipeline, name)) == weight_hash(getattr(original.pipeline, name)), (
            name
        )
    assert np.allclose(image(single), image(original), atol=1e-6)


def test_the_refiner_as_a_single_file(tmp_path):
    folder = tiny_refiner(tmp_path / "refiner", layers=10)
    original = load(folder, system=replace(SYSTEMS["sdxl-refiner"], size=64))
    path = save_original(original.pipeline, tmp_path / "refiner.safetensors")
    single = load(path, system=original.system, config=folder)
    assert type(single.pipeline).__name__ == "StableDiffusionXLImg2ImgPipeline"
    for name in ("unet", "vae", "text_encoder_2"):
        assert weight_hash(getattr(single.pipeline, name)) == weight_hash(getattr(original.pipeline, name))
    call = {"image": np.full((64, 64, 3), 0.5, np.float32), "seed": 1, "steps": 4, "output": "np"}
    assert np.allclose(single.generate("a cat", **call), original.generate("a cat", **call), atol=1e-6)
    assert load(path, config=folder).system.image_to_image


def test_a_single_file_of_a_few_step_model_is_known_by_its_name_and_title(tmp_path):
    folder = tiny_pipeline(tmp_path / "tiny", layers_2=10)
    path = save_original(load(folder, system=TURBO).pipeline, tmp_path / "sd_xl_turbo_1.0.safetensors")
    with pytest.warns(UserWarning, match=r"is called sd_xl_turbo_1.0.safetensors, .* 30 steps .* sdxl-turbo"):
        load(path, config=folder)
    titled = tmp_path / "mine.safetensors"
    save_file(load_file(path), titled, {"modelspec.title": "Some Lightning"})
    with pytest.warns(UserWarning, match=r"is called Some Lightning, .*system='sdxl-lightning-4step'"):
        load(titled, config=folder)
    load(path, config=folder, system=TURBO)


@pytest.mark.parametrize("sign", ["tensor", "metadata"])
def test_a_single_file_tells_that_it_predicts_v(tmp_path, sign):
    """The v-prediction checkpoints in use carry an empty tensor `v_pred`, or say so in their metadata."""
    folder = tiny_pipeline(tmp_path / "tiny", layers_2=10)
    path = save_original(load(folder, system=TURBO).pipeline, tmp_path / "checkpoint.safetensors")
    tensors = load_file(path) | ({"v_pred": torch.empty(0)} if sign == "tensor" else {})
    save_file(tensors, path, {"modelspec.prediction_type": "v"} if sign == "metadata" else None)
    with pytest.warns(UserWarning, match="output as epsilon, but .* says v_prediction"):
        load(path, config=folder)
    row = replace(SYSTEMS["novelai-v3"], size=64)
    (drawn,) = load(path, config=folder, system=row).generate("a cat", seed=1, steps=2, guidance=0.0)
    assert drawn.size == (64, 64)


def test_half_precision_is_not_computed_on_a_cpu(tiny, tmp_path):
    with quiet():
        pipeline = StableDiffusionXLPipeline.from_pretrained(tiny, dtype=torch.float16)
        pipeline.save_pretrained(tmp_path / "half")
    assert load(tmp_path / "half").dtype == torch.float32
    assert load(tmp_path / "half", "float16").dtype == torch.float16
    assert load(tiny, torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(UnboxError, match="'float17': should be one of"):
        load(tiny, "float17")


def test_the_fingerprint_follows_weights_and_settings(tiny, unet_file):
    one, same, other = load(tiny), load(tiny), load(tiny, unet=unet_file)
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint["weights"]["unet"] != other.fingerprint["weights"]["unet"]
    assert one.fingerprint["weights"]["vae"] == other.fingerprint["weights"]["vae"]
    json.dumps(one.fingerprint)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("sdxl-turb", "no system 'sdxl-turb'; near: sdxl-turbo"),
        ("mine", "no system 'mine'; `unbox models` lists them, and there is no folder or file mine here"),
        (
            "sdxl-turbo",
            "looked for stabilityai/sdxl-turbo in .* `hf download stabilityai/sdxl-turbo --include",
        ),
        ("owner/repository", "looked for owner/repository in the cache"),
        ("novelai-v3", r"no public weights: .*load\('CHECKPOINT', system='novelai-v3'\)"),
        ("ByteDance/SDXL-Lightning", "several systems; name one: sdxl-lightning-1step"),
        ("./nothing/here", "nothing at ./nothing/here"),
        ("gone.safetensors", "nothing at gone.safetensors"),
    ],
)
def test_what_is_not_here_is_named(source, message):
    with pytest.raises(UnboxError, match=message):
        load(source, download=False)


def test_wrong_places(tiny, tmp_path):
    with pytest.raises(UnboxError, match=r"without model_index.json"):
        load(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UnboxError, match=r"no checkpoint: single files end in \.safetensors"):
        load(tmp_path / "notes.txt")
    with pytest.raises(UnboxError, match="load: offload = 'disk': should be one of 'model' or 'sequential'"):
        load(tiny, offload="disk")
    with pytest.raises(UnboxError, match="there is none here"):
        load(tiny, device="cpu", offload="model")


@pytest.mark.parametrize("fault", ["gone", "cut short", "not weights"])
def test_damaged_weights_are_named(tiny, tmp_path, fault):
    folder = shutil.copytree(tiny, tmp_path / "damaged")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = file.read_bytes()
    file.unlink() if fault == "gone" else file.write_bytes(
        data[:9999] if fault == "cut short" else b"hello" * 99
    )
    said = "in unet/, has no weights: it holds config.json" if fault == "gone" else "may be incomplete"
    with pytest.raises(UnboxError, match=rf"damaged.* {said}"):
        load(folder)


def test_loading_is_silent(tiny, capfd):
    load(tiny)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, on importing its compiler
def test_compiled_blocks_leave_hooks_alone(tiny):
    """The blocks inside a transformer are compiled, the transformer is not, so its hooks fire.

    Compiled code is told to run eagerly: what the compiler makes is its own matter, and takes a minute.
    """
    plain, compiled = load(tiny, system=TURBO), load(tiny, system=TURBO, compile=True)
    assert type(compiled.block("mid.0")).__name__ == "Transformer2DModel"
    assert compiled.block("mid.0").transformer_blocks[0]._compiled_call_impl is not None
    calls = []
    with torch.compiler.set_stance("force_eager"):
        handle = compiled.block("mid.0").register_forward_hook(lambda *_: calls.append(1))
        result = image(compiled)
        handle.remove()
    assert len(calls) == 1
    assert np.allclose(result, image(plain), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "a\0b"}, "load: source = 'a.x00b': should not hold the control character"),
        (
            {"source": "~nobody-of-this-name/model"},
            "~nobody-of-this-name/model is in the home folder of a user",
        ),
        ({"dtype": "int8"}, "load: dtype = 'int8': should be one of 'float32', 'bfloat16' or 'float16'"),
        ({"dtype": torch.int8}, "load: dtype = torch.int8: should be one of"),
        ({"dtype": 16}, "load: dtype = 16: should be one of"),
        ({"offload": 1}, "load: offload = 1: should be one of"),
        ({"unet": ""}, "load: unet = '': should be the path of a file or folder"),
        ({"lora": 3}, "load: lora = 3: should be the path of a file or folder"),
        ({"compile": 1}, "load: compile = 1: should be true or false"),
        ({"system": 3}, "load: system = 3: should be a system or the name of one"),
    ],
)
def test_arguments_that_break_their_rule_are_named(tiny, arguments, message):
    with pytest.raises(UnboxError, match=message):
        load(**{"source": tiny, **arguments})


def test_a_system_file_that_breaks_a_rule_is_named_with_file_field_and_value(tmp_path):
    right = TURBO.to_json()
    for change, message in (
        ({"steps": 0}, "steps = 0: should be at least 1"),
        ({"guidance": float("nan")}, "guidance = nan: should be a finite number"),
        ({"size": 10**9}, "size = 1000000000: should be at most 16,384"),
        ({"prediction": "x"}, "prediction = 'x': should be one of"),
        ({"timesteps": {"2": [1, 2]}}, r"timesteps\[2\] = \(1, 2\): should be 2 falling timesteps"),
        ({"timesteps": {"x": [1]}}, "timesteps.x = 'x': should be a whole number"),
        ({"split": 0.5}, "split = 0.5: should be given where a refiner is"),
        ({"parts": [{"kind": "unet"}]}, "parts: repo is missing"),
        ({"parts": 3}, r"parts\[0\] = 3: should be an instance of Part"),
        (
            {"scheduler_config": {"a": float("inf")}},
            "scheduler_config = .*: should hold texts, finite numbers",
        ),
    ):
        with pytest.raises(UnboxError, match=f"^a/system.json: {message}"):
            System.from_json({**right, **change}, "a/system.json")
    for row in ([1], None, 3, "x"):
        with pytest.raises(UnboxError, match=r"^a/system.json: .*: should be an object with keys"):
            System.from_json(row, "a/system.json")
