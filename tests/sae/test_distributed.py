"""Two processes over gloo give what one gives on the same global batches."""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Backend, BackendConfig, _get_object_coll_device

from tests.activation_store.fakes import make
from tests.sae.process_threads import in_threads
from tests.sae.worlds import noise
from unbox.cli.main import main
from unbox.errors import UnboxError
from unbox.sae import SAE, Spec, train
from unbox.sae.checkpoint import METRICS, STATE
from unbox.sae.distributed import ProcessGroup, Team, check_replicas, checksums, group, local_device
from unbox.sae.initialization import measure
from unbox.sae.plan import make_plan
from unbox.sae.sae_folder import WEIGHTS
from unbox.sae.topk import by_batch
from unbox.sae.train_step import SAETrainer

CHILD = """
import json
import sys
import torch
from activation_store import Store
from tests.sae.worlds import noise
from unbox.sae import Spec, checkpoint, train

torch.set_num_threads(1)
out, names, options, store, die = sys.argv[1], sys.argv[2].split(","), *map(json.loads, sys.argv[3:])
rows = Store.open(store)["mid.0"] if store else noise(block="mid.0")
if die:  # as kill -9 in the middle of the third checkpoint's writing
    finish, seen = checkpoint._Publisher.write_data, []

    def killed(*given):
        seen.append(1)
        found = finish(*given)
        return os.kill(os.getpid(), 9) if len(seen) == 3 else found

    import os
    checkpoint._Publisher.write_data = killed
train({"mid.0": rows}, out, [Spec("mid.0", 2, 40, name) for name in names], **options)
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


def launch(out, world, names, options, store=None, die=False):
    """Train in `world` processes; `die`: they are killed in the midst."""
    words = ["-c", CHILD, str(out), ",".join(names)]
    words += [json.dumps(value) for value in (options, store and str(store), die)]
    run_together(world, words, -signal.SIGKILL if die else 0)


def run_together(world, words, code=0):
    """Run Python with some words in `world` processes, as torchrun does; returns what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = [
        subprocess.Popen(
            [sys.executable, *words],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    printed = []
    for child in children:
        found, errors = child.communicate(timeout=300)
        assert child.returncode == code, errors
        printed.append(found)
    return printed


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


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A real store, of 48 images, in bf16 too: ties are common there."""
    path = tmp_path_factory.mktemp("acts") / "store"
    make(path, 48, blocks={"mid.0": (4, 4, 16)}, dtype="bfloat16")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "names"), [("rows", ("topk", "batchtopk")), ("latents", ("topk", "batchtopk"))]
)
def test_two_processes_killed_and_resumed_from_a_store(share, names, store, tmp_path):
    """In bf16; killed with -9 while a checkpoint is being written: the same bits as undisturbed."""
    options = {"tokens": 3000, "batch_size": 128, "dead_after": 600, "precision": "bf16", "held_out": 0.1}
    options |= {"share": share, "checkpoint_every": 512, "log_every": 256, "progress": False}
    launch(tmp_path / "whole", 2, names, options, store)
    launch(tmp_path / "killed", 2, names, options, store, die=True)
    (left,) = (tmp_path / "killed").glob("checkpoint-*")
    assert json.loads((left / STATE).read_text())["rounds"] == 8
    sizes = [sum(f.stat().st_size for f in left.glob(f"tensors/shard-0000{rank}-*")) for rank in (1, 2)]
    assert max(sizes) < 0.6 * sum(sizes)  # each writes its own part, or its share of what both have
    launch(tmp_path / "killed", 2, names, options, store)
    for spec in (Spec("mid.0", 2, 40, name) for name in names):
        one, other = (SAE.load(tmp_path / run / spec.title) for run in ("whole", "killed"))
        assert all(torch.equal(getattr(one, key), getattr(other, key)) for key in WEIGHTS)
        assert one.stats.density.equal(other.stats.density)
    lines = [
        [
            {**json.loads(line), "rows_per_second": 0}
            for line in (tmp_path / run / METRICS).read_text().splitlines()
        ]
        for run in ("whole", "killed")
    ]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_the_commands_in_two_processes(store, tmp_path):
    """`torchrun -m unbox train` and `evaluate`: the first process prints and writes, what one would;
    typed again, they are those that are kept."""
    size = ("--k", "2", "4", "--latents", "24", "--tokens", "2000", "--batch-size", "100", "--device", "cpu")
    run_together(2, ["-m", "unbox", "train", "--store", str(store), "--out", str(tmp_path / "saes"), *size])
    words = ["evaluate", "--saes", str(tmp_path / "saes"), "--store", str(store), "--keep-steps", "1"]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    for _ in range(2):
        first, second = run_together(2, ["-m", "unbox", *words, "--out", str(tmp_path / "two")])
        assert "mid.0_k2_n24" in first
        assert not second
    one, two = (json.loads((tmp_path / run / "figures.json").read_text()) for run in ("one", "two"))
    assert list(one) == list(two) == ["mid.0_k2_n24", "mid.0_k4_n24"]
    for name, figures in one.items():
        assert figures["rows"] == two[name]["rows"] == 48 * 16 * 2
        for key in ("fvu", "explained_variance_per_channel", "l0", "dead_fraction", "fvu_interval"):
            assert two[name][key] == pytest.approx(figures[key], rel=1e-5)


@pytest.mark.parametrize("share", ["rows", "latents"])
def test_ties_of_a_batch_are_shared_out(share):
    """bf16 has few numbers, so many are equal: over processes as many win as in one, with the same values."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 16, generator=generator).bfloat16()
    weight = torch.randn(256, 16, generator=generator).bfloat16()
    bias = torch.zeros(256).bfloat16()
    _, values = by_batch(x, weight, bias, 10)
    assert len(values) == 5120
    assert (values == values.min()).sum() < (x @ weight.T == values.min()).sum()  # not all the equals win

    def work(group):
        half = slice(group.rank, None, 2) if share == "rows" else slice(group.rank * 128, None)
        if share == "rows":
            return by_batch(x[half], weight, bias, 10, Team(group, ProcessGroup()))[1]
        own = slice(group.rank * 128, group.rank * 128 + 128)
        return by_batch(x, weight[own], bias[own], 10, Team(ProcessGroup(), group))[1]

    found = torch.cat(in_threads(2, work))
    assert torch.equal(found.sort().values, values.sort().values)


def test_replicas_that_drift_are_named():
    tensors = {"W_enc": torch.ones(3, 2), "silent": torch.zeros(4, dtype=torch.int64)}
    assert checksums(tensors.values()) == [6 * 0x3F800000, 0]

    def work(group):
        own = {key: tensor.clone() for key, tensor in tensors.items()}
        check_replicas(own, group, "mid.0")
        own["W_enc"][0, 0] += 2e-7 * (group.rank == 2)
        with pytest.raises(UnboxError, match=r"mid\.0 is not the same .*: W_enc of process 2 differ"):
            check_replicas(own, group, "mid.0")
        return True

    assert in_threads(3, work) == [True] * 3


def test_a_process_sets_its_gpu_before_it_meets_others(monkeypatch):
    """NCCL takes the current device: every process of a machine would be on its first GPU."""
    said = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: said.append(("set", device)))
    monkeypatch.setattr(dist, "init_process_group", lambda *a, **k: said.append(("meet", *a, k["device_id"])))
    for name, value in {"WORLD_SIZE": 4, "RANK": 6 - 3, "LOCAL_RANK": 3, "MASTER_PORT": 29500}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr(atexit, "register", lambda function: None)
    for asked in (None, "cuda"):
        own = local_device(asked)
        group(own)
        assert said == [("set", own), ("meet", "cpu:gloo,cuda:nccl", own)]
        assert own == torch.device("cuda:3")
        said.clear()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # the scheduler shows each process its own
    assert local_device(None) == torch.device("cuda:0")


def test_objects_go_by_gloo():
    """As `all_gather_object` and `broadcast_object_list` choose, for a group that has a backend of CPUs."""
    dist.init_process_group("cpu:gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert torch.device(_get_object_coll_device(dist.group.WORLD)).type == "cpu"
        both = BackendConfig(Backend("cpu:gloo,cuda:nccl")).get_device_backend_map()
        assert both == {"cpu": "gloo", "cuda": "nccl"}
    finally:
        dist.destroy_process_group()


def test_memory_of_a_process():
    """Weights, moments and the encoder in low precision: what the plan counts, half each of latents that two
    share; the whole comes together in the memory of the one that measures it, and in no other's."""
    spec, n, d = Spec("", 4, 2048, "batchtopk"), 2048, 64
    plan = make_plan([spec], share="latents", batch_size=32)
    start = measure(noise(width=d), 0, "mean", "tied", True)

    def work(group):
        latents = group if group.world > 1 else ProcessGroup()
        one = SAETrainer(
            spec, plan, plan.budget(3000), start, torch.device("cpu"), Team(ProcessGroup(), latents)
        )
        held = sum(tensor.nbytes for tensor in (*one.state().values(), one.low))
        assert held <= plan.memory({"": d}, group.world)
        wholes = [one.sae("", owner) for owner in range(group.world)]
        assert [sae is not None for sae in wholes] == [rank == group.rank for rank in range(group.world)]
        assert wholes[group.rank].W_enc.shape == (n, d)
        return held, one.low.element_size()

    ((alone, size),) = in_threads(1, work)
    for held, _ in in_threads(2, work):
        assert held == pytest.approx(alone / 2, rel=0.01)
    # Two weights, two moments of each; the encoder besides, in bf16 or (where the processor has none)
    # float32, with at most half as many columns more.
    assert 1 <= alone / (6 * 4 * n * d + size * n * d) < 1 + size / 2 / (24 + size) + 0.02
