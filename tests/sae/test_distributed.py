"""Two processes over gloo give what one gives on the same global batches."""

import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.sae.worlds import noise
from unbox.errors import UnboxError
from unbox.sae import SAE, Spec, train
from unbox.sae.distributed import ProcessGroup, Team
from unbox.sae.initialization import measure
from unbox.sae.plan import make_plan
from unbox.sae.train_step import SAETrainer

CHILD = """
import json
import sys
import torch
from tests.sae.worlds import noise
from unbox.sae import Spec, train

torch.set_num_threads(1)
out, names, options = sys.argv[1], sys.argv[2].split(","), json.loads(sys.argv[3])
train({"mid.0": noise(block="mid.0")}, out, [Spec("mid.0", 2, 40, name) for name in names], **options)
"""

#: Long enough for latents to die and be revived; fp32, so that rounding alone tells the runs apart.
OPTIONS = {
    "tokens": 4000,
    "batch_size": 128,
    "dead_after": 1000,
    "precision": "fp32",
    "held_out": 0,
    "clip_norm": 0.5,
    "progress": False,
}


def launch(out, world, names, options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(out), ",".join(names), json.dumps(options)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    for child in children:
        _, errors = child.communicate(timeout=300)
        assert child.returncode == 0, errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "names"),
    [("rows", ("topk", "matryoshka", "multik")), ("latents", ("topk", "matryoshka"))],
)
def test_two_processes_equal_one(share, names, tmp_path):
    launch(tmp_path / "two", 2, names, {**OPTIONS, "share": share, "checkpoint_every": 1000})
    rows = {"mid.0": noise(block="mid.0")}
    one = train(rows, tmp_path / "one", [Spec("mid.0", 2, 40, name) for name in names], **OPTIONS)
    for name, sae in one.items():
        other = SAE.load(tmp_path / "two" / name)
        for key in ("W_enc", "W_dec", "b_pre", "b_lat"):
            ours, theirs = getattr(sae, key), getattr(other, key)
            # Sums over the batch are added in another order, and Adam's first steps magnify that.
            assert (ours - theirs).abs().max() < 2e-3 * ours.abs().max().clamp_min(1)
        assert other.meta["figures"]["fvu"] == pytest.approx(sae.meta["figures"]["fvu"], rel=1e-2)
    both = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("one", "two")
    ]
    assert any(line["dead"] > 0 for line in both[0])
    last = [{line["sae"]: line for line in lines} for lines in both]
    for name, line in last[0].items():
        assert line["l0"] == pytest.approx(last[1][name]["l0"], rel=1e-2)
        assert line["tokens"] == last[1][name]["tokens"]


def test_what_cannot_be_shared():
    team = Team(ProcessGroup(), SimpleNamespace(rank=0, world=3))
    plan = make_plan([], share="latents")
    start = measure(noise(), 0, "mean", "tied", True)
    for spec in (Spec("", 2, 40), Spec("", 2, 42, "multik")):
        with pytest.raises(UnboxError, match="share rows instead"):
            SAETrainer(spec, plan, plan.budget(3000), start, torch.device("cpu"), team)
    fit = SAETrainer(Spec("", 2, 42), plan, plan.budget(3000), start, torch.device("cpu"), team)
    assert fit.weights["W_enc"].shape == (14, 16)
