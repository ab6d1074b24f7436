"""Training straight from generation: what is held out, what is refused, how it stops, what a plan says."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from activation_store import Store
from tests.capture.test_stream import quiet
from tests.models.tiny import tiny_pipeline
from unbox.capture.generation import Generation
from unbox.cli.main import main
from unbox.errors import UnboxError
from unbox.models import load
from unbox.models.seeds import image_seed
from unbox.online import OnlineImages, estimate_online, read_images, train_online
from unbox.sae import SAE, Plan, evaluate, load_saes, read_toml, specs
from unbox.stopping import Stopped, stopping

PROMPTS = [f"a dog {n}" for n in range(14)]
IMAGES = OnlineImages(steps=1, guidance=0.0, height=32, width=32, image_seed=9, image_batch=4, buffer="100kB")
BLOCKS = ("mid.0", "up.1.0")
PLAN = Plan(saes=specs(BLOCKS, k=2, latents=24), batch_size=64)
PAPER = Path(__file__).parents[2] / "examples" / "paper.toml"


def trained(model, out, prompts=PROMPTS, plan=PLAN, images=IMAGES, **options):
    return train_online(model, prompts, out, plan, images, held_out=0.2, progress=False, **options)


@pytest.fixture(scope="module")
def done(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("online") / "saes"
    return out, trained(model, out)


def test_the_first_images_are_held_out_in_a_store_and_the_others_make_the_rows(done, model):
    out, saes = done
    store = Store.open(out / "held-out")
    assert [sample.prompt for sample in store.samples] == PROMPTS[:3]
    assert [sample.seed for sample in store.samples] == [image_seed(9, i) for i in range(3)]
    assert list(saes) == list(load_saes(out)) == list(BLOCKS)
    for block, sae in saes.items():
        per_image = len(store[block]) // 3
        assert sae.meta["rows"]["rows"] == 11 * per_image
        assert sae.meta["provenance"]["model"]
        figures = evaluate(sae, store[block]).to_json()
        assert sae.meta["figures"]["fvu"] == pytest.approx(figures["fvu"])
        assert len(sae.meta["figures"]["groups"]) == len(figures["groups"]) == 1


def test_the_same_again_changes_nothing(done, model, monkeypatch):
    out, saes = done
    monkeypatch.setattr(Generation, "make", lambda *given: pytest.fail("nothing is to be made"))
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    again = trained(model, out)
    assert all(torch.equal(saes[name].W_enc, again[name].W_enc) for name in saes)
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}


OTHERS = {
    "prompts was 14 prompts": {"prompts": [*PROMPTS[:-1], "a cat"]},
    "image_seed was 9, is 8": {"images": replace(IMAGES, image_seed=8)},
    "steps was 1, is 2": {"images": replace(IMAGES, steps=2)},
    "prompt_weights was false, is true": {"images": replace(IMAGES, prompt_weights=True)},
    "long_prompts was cut, is chunks": {"images": replace(IMAGES, long_prompts="chunks")},
    "image_batch was 4, is 2": {"images": replace(IMAGES, image_batch=2)},
    "buffer was 100000, is 200000": {"images": replace(IMAGES, buffer="200kB")},
    "row_dtype was float16, is int8": {"images": replace(IMAGES, row_dtype="int8")},
    "blocks up.1.0 was": {"plan": Plan(saes=specs(["mid.0"], k=2, latents=24), batch_size=64)},
    "other saes": {"plan": Plan(saes=specs(BLOCKS, k=3, latents=24), batch_size=64)},
}


@pytest.mark.parametrize("told", OTHERS)
def test_another_run_is_refused_by_name(told, done, model):
    with pytest.raises(UnboxError, match=told):
        trained(model, done[0], **OTHERS[told])


def test_a_folder_of_before_there_were_these_options_is_gone_on_with_as_it_was(done, model, tmp_path):
    shutil.copytree(done[0], out := tmp_path / "saes")
    record = json.loads((out / "identity.json").read_text())
    assert record["parts"].pop("long_prompts") == "cut"
    assert record["parts"].pop("prompt_weights") is False
    (out / "identity.json").write_text(json.dumps(record))
    with pytest.raises(UnboxError, match="long_prompts was cut, is chunks"):
        trained(model, out, images=replace(IMAGES, long_prompts="chunks"))
    assert list(trained(model, out)) == list(BLOCKS)


def test_another_model_and_a_run_on_a_store_are_refused(done, model, tmp_path):
    out, _ = done
    other = load(tiny_pipeline(tmp_path / "other", seed=5, timestep_spacing="trailing"), device="cpu")
    with pytest.raises(UnboxError, match="model was"):
        trained(other, out)
    (tmp_path / "saes").mkdir()
    (tmp_path / "saes" / "run.json").write_text(json.dumps({"plan": {}}))
    with pytest.raises(UnboxError, match="a run on the rows of a store"):
        trained(model, tmp_path / "saes")
    with pytest.raises(UnboxError, match="names its block"):
        trained(model, tmp_path / "new", plan=Plan(saes=specs([""], k=2, latents=24)))


def test_a_signal_while_rows_are_awaited_keeps_a_checkpoint(done, model, tmp_path, monkeypatch):
    """At the fourth batch of images, which nobody has rows before: the run stops within that batch."""
    make, calls = Generation.make, []

    def stopped(self, group):
        calls.append(group)
        if len(calls) == 9:
            os.kill(os.getpid(), signal.SIGINT)
        return make(self, group)

    monkeypatch.setattr(Generation, "make", stopped)
    with stopping(), pytest.raises(Stopped):
        trained(model, tmp_path / "saes")
    quiet()
    assert len(calls) <= 10
    assert list((tmp_path / "saes").glob("checkpoint-*"))
    monkeypatch.setattr(Generation, "make", make)
    saes = trained(model, tmp_path / "saes")
    for name, sae in done[1].items():
        assert torch.equal(sae.W_enc, saes[name].W_enc)
        assert torch.equal(sae.b_lat, saes[name].b_lat)


CHILD = """
import sys
import torch
from tests.online.test_train_online import PROMPTS, trained
from unbox.capture.generation import Generation
from unbox.models import load

torch.set_num_threads(1)
make = Generation.make
def noting(self, group):
    print("made", self.groups[group].start, flush=True)
    return make(self, group)
Generation.make = noting
trained(load(sys.argv[1], device="cpu"), sys.argv[2])
"""


@pytest.mark.slow
def test_two_processes_make_their_shares(folder, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), str(tmp_path / "saes")],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    ends = [child.communicate(timeout=300) for child in children]
    assert [child.returncode for child in children] == [0, 0], ends
    saes = load_saes(tmp_path / "saes")
    assert list(saes) == list(BLOCKS)
    assert all(sae.meta["figures"]["rows_from"] == "held-out rows" for sae in saes.values())
    assert len(Store.open(tmp_path / "saes" / "held-out")) == 3
    made = [[int(line.split()[1]) for line in out.splitlines() if line.startswith("made")] for out, _ in ends]
    # Rank 0 alone makes the images that the start is measured on (all three groups); both make those of the
    # latents' statistics, and each its share of an epoch, two groups and one, and of the next: uneven.
    assert len(made[0]) + len(made[1]) <= 3 + 2 * 3 + 2 * 3 + 2


def test_a_plan_says_images_bytes_and_memory(model, tmp_path):
    found = estimate_online(model, PROMPTS, PLAN, IMAGES, gpus=2, held_out=0.2, beside=tmp_path)
    assert (found.images, found.rounds) == (11, -(-11 * 64 // 64))
    assert found.buffer_bytes == 100_000
    assert found.buffer_images == 100_000 // (2 * (16 * 128 + 64 * 64))
    assert found.store.images == 14
    assert 0 < found.seconds_per_round < found.seconds
    assert not list(tmp_path.iterdir())
    lines = "\n".join(found.lines())
    assert "from generation: 11 images to train on" in lines
    assert "a store first:" in lines
    millions = estimate_online(
        model,
        (f"a dog {n}" for n in range(20)),
        PLAN,
        replace(IMAGES, limit=1_500_000),
        gpus=8,
        beside=tmp_path,
    )
    assert millions.images == 1_500_000 - 4096  # 65,536 rows of 16 an image are held out
    assert millions.beside == 4096 + (2 * 32_768 + 2 * 65_536) // 16
    assert millions.seconds == pytest.approx((millions.images / 8) * millions.seconds_per_image, rel=0.2)
    with pytest.raises(UnboxError, match="--limit"):
        estimate_online(model, (f"a dog {n}" for n in range(20)), PLAN, IMAGES)


def test_the_papers_plan():
    plan, images = read_toml(PAPER), read_images(PAPER)
    assert (len(plan.saes), plan.tokens, plan.batch_size, plan.dead_after) == (48, None, 4096, 10_000_000)
    assert {(s.k, s.latents) for s in plan.saes} == {
        (k, n) for k in (5, 10, 20, 40, 80, 160) for n in (640, 5120)
    }
    assert {s.block for s in plan.saes} == {"down.2.1", "mid.0", "up.0.0", "up.0.1"}
    assert (images.model, images.limit, images.steps) == ("sdxl-turbo", 1_500_000, 1)
    assert images.buffer_bytes // (4 * 256 * 1280 * 2) == 1525


def test_the_command_line(folder, tmp_path, capsys):
    (tmp_path / "plan.toml").write_text(
        'batch_size = 64\n[images]\nprompts = "shapes"\nlimit = 6\nsteps = 1\nheight = 32\nwidth = 32\n'
        'image_batch = 3\nbuffer = "100kB"\n[[sae]]\nblock = "mid.0"\nk = [2, 3]\nlatents = 16\n'
    )
    words = ["train", "--plan", str(tmp_path / "plan.toml"), "--out", str(tmp_path / "saes")]
    assert main(words) == 2
    assert "--model and --prompts" in capsys.readouterr().err
    words += ["--model", str(folder), "--held-out", "0.3"]
    assert main([*words, "--dry-run", "--gpus", "2"]) == 0
    out = capsys.readouterr().out
    assert "from generation: 4 images" in out
    assert not (tmp_path / "saes").exists()
    assert main(words) == 0
    assert list(load_saes(tmp_path / "saes")) == ["mid.0_k2_n16", "mid.0_k3_n16"]
    typed = "--prompts shapes --limit 6 --steps 1 --height 32 --width 32 --image-batch 3 --buffer 100kB"
    typed += " --batch-size 64 --blocks mid.0 --k 2 3 --latents 16 --held-out 0.3"
    line = ["train", *typed.split(), "--model", str(folder), "--out", str(tmp_path / "typed")]
    assert main(line) == 0
    pair = [SAE.load(tmp_path / name / "mid.0_k3_n16") for name in ("saes", "typed")]
    assert torch.equal(pair[0].W_enc, pair[1].W_enc)
    assert main([*line, "--resume"]) == 2  # --k and the others are the folder's
    (tmp_path / "bad.toml").write_text("[images]\nstep = 1\n[[sae]]\nblock = 'mid.0'\n")
    assert main(["train", "--plan", str(tmp_path / "bad.toml"), "--out", "x", "--model", str(folder)]) == 2
    assert "step = 1: is unknown, is it steps?" in capsys.readouterr().err
