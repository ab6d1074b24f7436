"""`unbox recipe sdxl` on a tiny SDXL: what is written is loaded by diffusers, stops lose nothing, others are
refused."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.models.tiny import tiny_pipeline
from tests.recipes.sdxl.run_sdxl import SMALL, run
from tests.training.data.pictures import folder_of
from unbox.cli.main import main
from unbox.errors import UnboxError
from unbox.models import load
from unbox.recipes.sdxl.sdxl_cost import state_bytes
from unbox.recipes.sdxl.sdxl_network import noise_of, prepared, write_lora
from unbox.recipes.sdxl.sdxl_settings import SdxlSettings, TrainingImages, read_recipe
from unbox.sae.safetensors_io import read_tensors
from unbox.stopping import Stopped, stopping
from unbox.training.loop import CheckpointState

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model", timestep_spacing="trailing")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    place = folder_of(tmp_path_factory.mktemp("data"), {f"{i}": f"a red cat {i}" for i in range(3)})
    return folder_of(place / "wide", {"w": "a dog"}, (48, 80)).parent


@pytest.fixture(scope="module")
def whole(model, data, tmp_path_factory):
    """An undisturbed run's folder."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(model, data, out)
    return out


def weights(out):
    return read_tensors(out / "training" / "unet.safetensors")


def drawn(folder, **options):
    model = load(folder, device="cpu", **options)
    return np.asarray(model.generate("a cat", seed=1, steps=1, guidance=0, height=64, width=64), float)


def test_a_lora_is_loaded_by_diffusers_and_changes_the_picture(whole, model):
    assert sorted(path.name for path in whole.iterdir()) == [
        "cache", "identity.json", "lora", "losses.jsonl", "training",
    ]  # fmt: skip
    plain, adapted = drawn(model), drawn(model, lora=whole / "lora")
    assert np.abs(plain - adapted).max() > 0
    loaded = load(model, device="cpu", lora=whole / "lora").unet
    layers = dict(loaded.named_parameters())
    for name, tensor in weights(whole).items():  # what was trained is what is loaded
        key = name.removeprefix("average.").replace(".default.", ".lora.")
        assert torch.equal(layers[key], tensor), key
    assert all(".lora_" in name for name in weights(whole))


def test_a_lora_keeps_its_layers_and_strength(model, tmp_path):
    """Rank 2 and alpha 6: the product counts three times. Every layer is found again."""
    unet = load(model, device="cpu").pipeline.unet
    settings = SdxlSettings(lora_rank=2, lora_alpha=6, lora_targets="transformer", mixed_precision="no")
    prepared(unet, settings)
    with torch.no_grad():
        for name, p in unet.named_parameters():
            if "lora_B" in name:
                p.normal_()
    lora = write_lora(unet, tmp_path / "lora", settings)
    loaded = load(model, device="cpu", lora=lora).unet
    layers = {name: part for name, part in unet.named_modules() if hasattr(part, "scaling")}
    assert len(layers) == 302
    for name, part in layers.items():
        ours = part.scaling["default"] * part.lora_B["default"].weight @ part.lora_A["default"].weight
        other = loaded.get_submodule(name)
        theirs = other.scaling["lora"] * other.lora_B["lora"].weight @ other.lora_A["lora"].weight
        assert torch.allclose(ours, theirs, atol=1e-5), name


def test_a_stopped_run_goes_on_to_the_same_bits(whole, model, data, tmp_path):
    out = tmp_path / "run"
    with stopping(), pytest.raises(Stopped):
        run(model, data, out, stop=2)
    assert CheckpointState.read(out / "training").step == 3
    run(model, data, out)
    assert (out / "losses.jsonl").read_text() == (whole / "losses.jsonl").read_text()
    for name in ("training/unet.safetensors", "lora/pytorch_lora_weights.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


OTHERS = {
    "max_train_steps was 4, is 5": {"max_train_steps": 5},
    "seed was 0, is 1": {"seed": 1},
    "lora_rank was 2, is 3": {"lora_rank": 3},
    "snr_gamma was none, is 5.0": {"snr_gamma": 5.0},
}


@pytest.mark.parametrize("message", OTHERS)
def test_another_run_in_the_folder_is_refused_by_name(whole, model, data, message):
    with pytest.raises(UnboxError, match=message):
        run(model, data, whole, **OTHERS[message])


def test_what_changes_no_number_may_change(whole, model, data):
    before = (whole / "training" / "unet.safetensors").read_bytes()
    run(model, data, whole, save_minutes=3.0, gradient_checkpointing=True)
    assert (whole / "training" / "unet.safetensors").read_bytes() == before


@pytest.mark.slow
def test_checkpointing_and_accumulated_batches(model, data, tmp_path):
    """Activations computed again give the same gradients."""
    plain, again = tmp_path / "plain", tmp_path / "again"
    options = {"max_train_steps": 2, "gradient_accumulation_steps": 2}
    run(model, data, plain, **options)
    run(model, data, again, gradient_checkpointing=True, **options)
    for name, tensor in weights(plain).items():
        assert torch.allclose(weights(again)[name], tensor, atol=1e-6), name


@pytest.mark.slow
def test_a_whole_unet_is_written_as_a_model_with_its_own_row(model, data, tmp_path, monkeypatch, capsys):
    for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):  # said before hours of it
        monkeypatch.setattr(torch.cpu, check, lambda: False, raising=False)
    options = {"full": True, "prediction": "v_prediction", "zero_terminal_snr": True, "max_train_steps": 2}
    more = {"snr_gamma": 5.0, "snr_floor": 1.0, "noise_offset": 0.05, "ema": 0.9, "learning_rate": 1e-4}
    folder = run(model, data, tmp_path / "run", mixed_precision="bf16", **{**options, **more})
    assert "note: bfloat16 is emulated on this processor" in capsys.readouterr().out
    trained, before = load(folder, device="cpu"), load(model, device="cpu")
    assert trained.system.prediction == "v_prediction"
    assert trained.pipeline.scheduler.config.rescale_betas_zero_snr
    assert trained.size == before.size
    kept = weights(tmp_path / "run")
    for name, p in trained.unet.named_parameters():
        assert torch.equal(kept[f"average.{name}"], p)
    both = zip(trained.unet.parameters(), before.unet.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in both)
    picture = trained.generate("a cat", seed=1, steps=2, guidance=0, height=64, width=64)
    assert np.asarray(picture).std() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zero_terminal_snr": True}, "--zero-terminal-snr: at pure noise a UNet that predicts epsilon"),
        ({"prediction": "v_prediction"}, "is for full"),
        ({"shard": True}, "is for full"),
        ({"snr_floor": 1.0}, "give snr_gamma"),
        ({"full": True, "lora_alpha": 3}, "is of a LoRA"),
    ],
)
def test_settings_that_do_not_suit_are_refused_before_anything_is_written(
    model, data, tmp_path, options, message
):
    with pytest.raises(UnboxError, match=message):
        run(model, data, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_mistake_leaves_no_run_behind(model, tmp_path):
    data = folder_of(tmp_path / "data", {"a": "a cat"})
    (data / "a.txt").unlink()
    with pytest.raises(UnboxError, match=r"a\.png has no caption"):
        run(model, data, tmp_path / "run")
    (data / "a.txt").write_text("a cat")
    run(model, data, tmp_path / "run", max_train_steps=1, seed=3)


def test_the_noise_is_the_models_own(model):
    found = noise_of(load(model, device="cpu"), SdxlSettings(noise_offset=0.1), torch.device("cpu"))
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    assert np.allclose(found.abar.numpy(), np.cumprod(1 - betas), rtol=2e-5)
    assert (found.kind, found.weighting, found.offset) == ("epsilon", "one", 0.1)


@pytest.mark.slow
def test_a_checkpoints_bytes_are_those_that_a_dry_run_says(model, data, tmp_path):
    for name, options in {"adamw": {"ema": 0.9}, "muon": {"optimizer": "muon"}}.items():
        out = tmp_path / name
        with stopping(), pytest.raises(Stopped):
            run(model, data, out, stop=1, **options)
        file = out / "training" / "unet.safetensors"
        header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
        settings = SdxlSettings(**{**SMALL, **options})
        unet = prepared(load(model, device="cpu").pipeline.unet, settings)
        assert file.stat().st_size - header == state_bytes(unet, settings).checkpoint


def test_a_recipe_file_says_settings_and_images(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('lora_rank = 8\nsnr_gamma = 5\n[images]\ndata = "shapes"\nlimit = 7\n')
    found = read_recipe(path)
    assert (found.lora_rank, found.snr_gamma, found.images) == (
        8,
        5.0,
        TrainingImages(data="shapes", limit=7),
    )
    for text, message in (
        ("lora_rank = 0\n[images]\ndata = 'x'\n", "lora_rank = 0: should be at least 1"),
        ("rank = 3\n[images]\ndata = 'x'\n", "rank = 3: is unknown"),
        ("[images]\ndat = 'x'\n", "dat = 'x': is unknown, is it data"),
        ("lora_rank = 3\n", "says no data"),
    ):
        path.write_text(text)
        with pytest.raises(UnboxError, match=message):
            read_recipe(path)


@pytest.mark.slow
def test_a_dry_run_says_what_a_run_costs_and_writes_nothing(model, data, tmp_path, capsys):
    out = tmp_path / "run"
    line = (
        f"recipe sdxl --model {model} --data {data} --out {out} --lora-rank 2 --mixed-precision no --dry-run"
    )
    assert main([*line.split(), "--gpus", "2", "--batch-size", "2"]) == 0
    told = capsys.readouterr().out
    assert "trained: 89,600 of 10,374,276 parameters" in told
    assert "for 4 images" in told
    assert "1,000 steps of" in told
    assert "4 a step, 1,000.0 times each" in told
    assert not out.exists()


def launched(words: list[str], processes: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    command += [
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
        "-m",
        "tests.recipes.sdxl.run_sdxl",
        *words,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_to_the_same_bits(model, data, tmp_path):
    for name in ("whole", "parts"):
        words = [str(model), str(data), str(tmp_path / name), "max_train_steps=12"]
        if name == "parts":
            launched([*words, "stop=4"], 2)
            assert 4 < CheckpointState.read(tmp_path / name / "training").step < 12
        launched(words, 2)
    one, two = (weights(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(two[name], tensor) for name, tensor in one.items())
    with pytest.raises(UnboxError, match="processes was 2, is 1"):
        run(model, data, tmp_path / "whole", max_train_steps=12)


@pytest.mark.slow
def test_processes_that_share_the_weights_learn_what_copies_learn(model, data, tmp_path):
    """FSDP against DDP, with a stop in between: the same sums in another order."""
    words = ["full=True", "max_train_steps=6"]
    launched([str(model), str(data), str(tmp_path / "copies"), *words], 2)
    launched([str(model), str(data), str(tmp_path / "shards"), *words, "shard=True", "stop=2"], 2)
    assert CheckpointState.read(tmp_path / "shards" / "training").step < 6
    launched([str(model), str(data), str(tmp_path / "shards"), *words, "shard=True"], 2)
    first = load(model, device="cpu").unet.state_dict()
    one, two = (weights(tmp_path / name) for name in ("copies", "shards"))
    moved = sum(float((one[f"average.{name}"] - value).square().sum()) for name, value in first.items())
    apart = sum(float((one[name] - two[name]).square().sum()) for name in one)
    assert apart < 1e-3 * moved


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(model, data, tmp_path):
    words = [str(model), str(data), "OUT", "max_train_steps=60", "save_minutes=0.00001"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.recipes.sdxl.run_sdxl", *words]
    for name in ("whole", "parts"):
        command[5] = str(tmp_path / name)
        if name == "parts":
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
            state = tmp_path / name / "training"
            while not ((state / "state.json").exists() and CheckpointState.read(state).step > 5):
                time.sleep(0.05)
                assert process.poll() is None
            process.kill()
            process.wait()
            assert CheckpointState.read(state).step < 60
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stderr=subprocess.DEVNULL)
    one, two = (weights(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(two[name], tensor) for name, tensor in one.items())
