"""Training and evaluation on a GPU that is not there: tensors of `cuda:0` that have shapes and no numbers.
What lies on the CPU beside them, and each number that the host would wait for, is an error."""

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

from tests.sae.worlds import noise
from unbox.sae import SAE, VARIANTS, Spec, topk, train_step
from unbox.sae.evaluation_sums import EvaluationSums
from unbox.sae.initialization import measure
from unbox.sae.plan import make_plan
from unbox.sae.threshold_step import THRESHOLD_TRAINERS
from unbox.sae.training_figures import held_out_figures
from unbox.sae.transcoder_step import TranscoderTrainer

GPU, ROWS = torch.device("cuda:0"), 64
#: What a CPU build of torch lacks: to enter and leave a device does nothing.
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
using Guard = c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>;
C10_REGISTER_GUARD_IMPL(CUDA, Guard);
"""
#: Operations that make a GPU's host wait: for a number, or for how many there are.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "unique", "item", "equal")


#: What asking for a number, or for how many there are, ends in.
REFUSED = (AssertionError, DataDependentOutputException, DynamicOutputShapeException)


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for the device, copies between the two included."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        if any(name.startswith(each) for each in WAITS):
            raise AssertionError(f"{name} makes the host wait for the GPU")
        found = operation(*args, **(kwargs or {}))
        if name in ("_to_copy", "copy_"):
            devices = {t.device.type for t in (*args, found) if isinstance(t, torch.Tensor)}
            if len(devices) > 1:
                raise AssertionError("a copy between host and GPU in a step")
        return found


@pytest.fixture(scope="module", autouse=True)
def guard(tmp_path_factory):
    """A guard for GPUs, where torch has none; built by the machine's compiler."""
    if torch.version.cuda is not None:
        return
    folder, include = tmp_path_factory.mktemp("guard"), Path(torch.__file__).parent / "include"
    (folder / "guard.cpp").write_text(GUARD)
    words = ["g++", "-O0", "-shared", "-fPIC", "-std=c++20", f"-I{include}", "guard.cpp", "-o", "guard.so"]
    words += [f"-L{include.parent / 'lib'}", "-lc10"]
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no C++ compiler here")
    assert done.returncode == 0, done.stderr[-2000:]
    ctypes.CDLL(str(folder / "guard.so"))


def backward(loss):
    """Gives each leaf of a graph a gradient: autograd's engine asks for a card, and there is none."""
    assert loss.device == GPU
    found, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in found:
            continue
        found.add(node)
        left += [other for other, _ in node.next_functions]
        if (leaf := getattr(node, "variable", None)) is not None:
            leaf.grad = torch.empty_like(leaf)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(train_step, "kernels_run_on", lambda device: False)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(torch.autograd, "grad", lambda loss, leaves: [torch.empty_like(x) for x in leaves])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


START = measure(noise(), 0, "median", "tied", True)


def trainer(name: str) -> train_step.SAETrainer:
    """A trainer on the GPU, begun on what was measured of real rows."""
    spec = Spec("", 4, 256, name)
    plan = make_plan([spec], tokens=10**6, batch_size=ROWS, precision="bf16", clip_norm=1.0)
    kind = THRESHOLD_TRAINERS.get(name, train_step.SAETrainer)
    return kind(spec, plan, plan.budget(1000), START, GPU)


def transcoder(name: str) -> TranscoderTrainer:
    spec = Spec("", 4, 256, name)
    plan = make_plan([spec], tokens=10**6, batch_size=ROWS, precision="bf16")
    return TranscoderTrainer((10, 6), True, spec, plan, plan.budget(1000), START, GPU)


MADE = {name: (trainer, name) for name in VARIANTS} | {
    f"transcoder {name}": (transcoder, name) for name in ("topk", "batchtopk")
}


@pytest.mark.parametrize("dead", [0, 100])
@pytest.mark.parametrize("made", MADE)
def test_a_step_stays_on_the_gpu_and_waits_for_nothing(made, dead, fake):
    make, name = MADE[made]
    one = make(name)
    if dead:
        one.dead, one.dead_everywhere = torch.arange(dead, device=GPU), dead
    x = torch.empty(ROWS, 16, device=GPU)
    one.step(x, ROWS, 1.0)  # levels go there once
    with NoWaiting():
        one.step(x, ROWS, 1.0)
    assert {tensor.device for key, tensor in one.state().items() if key != "steps"} == {GPU}


def test_waiting_would_be_seen(fake):
    x = torch.empty(ROWS, 16, device=GPU)
    for waits in (lambda: x.sum().item(), lambda: x.nonzero(), lambda: x[x > 0], lambda: x.cpu()):
        with pytest.raises(REFUSED), NoWaiting():
            waits()


def test_a_trainer_goes_on_from_its_state(fake):
    """From tensors of the CPU, as checkpoints give them; looks at who is dead are of unknown size."""
    for make, name in MADE.values():
        one = make(name)
        state = {key: torch.zeros_like(tensor, device="cpu") for key, tensor in one.state().items()}
        dead, one._count_dead = state.pop("dead"), lambda: None
        state["dead"] = _Dead(dead)
        state["steps"] = 3
        one.restore(state)
        assert {tensor.device for key, tensor in one.state().items() if key != "steps"} == {GPU}


class _Dead:
    """Flags whose true places are known to be none."""

    def __init__(self, flags: torch.Tensor) -> None:
        self.flags = flags

    def to(self, device: torch.device) -> "_Dead":
        return _Dead(self.flags.to(device))

    def nonzero(self) -> torch.Tensor:
        return torch.zeros(0, 1, dtype=torch.int64, device=self.flags.device)


@pytest.mark.parametrize("threshold", [None, "one", "each"])
def test_encoding_and_evaluation_stay_on_the_gpu(threshold, fake, monkeypatch):
    """Which pre-activations are over a threshold is of unknown size: as many as rows stand in for them."""
    monkeypatch.setattr(topk, "_true", lambda flags: torch.arange(ROWS, device=flags.device))
    monkeypatch.setattr("unbox.sae.encoding.pack", _packed)
    weights = torch.empty(256, 16, device=GPU), torch.empty(16, device=GPU), torch.empty(256, device=GPU)
    sae = SAE(weights[0], weights[0], weights[1], weights[2], 4)
    if threshold is not None:
        sae = _with_threshold(sae, torch.empty(() if threshold == "one" else 256, dtype=torch.float64))
    x = torch.empty(ROWS, 16, device=GPU)
    codes = sae.encode(x)
    assert {codes.values.device, codes.indices.device, sae.decode(codes).device} == {GPU}
    for leave_out in (False, True):
        sums = EvaluationSums(sae, [(0, "cond"), (1, "cond")], 8, 100.0, leave_out)
        sums._add(torch.empty(8, 8, 16), 0)
        assert {sums.by_cell.device, sums.counts.device, sums.by_position.device} == {GPU}
        assert {sums.latents.active.device, sums.latents.largest.device} == {GPU}


def _packed(values, indices, rows, count):
    from unbox.sae.codes import Codes

    assert values.device == indices.device == rows.device == GPU
    return Codes(torch.empty(count, 4, device=GPU), torch.zeros(count, 4, dtype=torch.int64, device=GPU))


def _with_threshold(sae: SAE, threshold: torch.Tensor) -> SAE:
    """That is finite: of a tensor without numbers nobody can say so."""
    sae._buffers["threshold"] = threshold.to(GPU)
    return sae


@pytest.mark.parametrize("name", [name for name, kind in VARIANTS.items() if not kind.learns_threshold])
def test_figures_of_held_out_rows_are_of_tensors_of_one_device(name, fake):
    """They are read at a line of metrics, by numbers that the host waits for, at their end alone."""
    one = trainer(name)
    with pytest.raises(DataDependentOutputException):
        held_out_figures(one, torch.empty(ROWS, 16, device=GPU), ROWS)
