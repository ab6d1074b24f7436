"""Training on a card: the same SAE as by torch's operations, few launches, no waiting, the same bits."""

import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from unbox.sae import ArrayRows, Spec
from unbox.sae import train_step as trainers
from unbox.sae.plan import make_plan
from unbox.sae.training_run import TrainingRun

pytestmark = pytest.mark.gpu
D, N, K, B = 160, 1024, 8, 512


@pytest.fixture
def rows() -> np.ndarray:
    generator = np.random.default_rng(0)
    return (generator.normal(size=(4096, 24)) @ generator.normal(size=(24, D)) + 1).astype(np.float32)


def run(rows: np.ndarray, precision: str = "fp32", steps: int = 40, **options: object) -> TrainingRun:
    plan = make_plan(
        [Spec("", K, N)],
        tokens=10**9,
        batch_size=B,
        warmup=0,
        dead_after=8 * B,
        precision=precision,
        **options,
    )
    training = TrainingRun(plan, {"": ArrayRows(rows)}, "cuda:0")
    for _ in range(steps):
        training.advance()
    return training


def weights(training: TrainingRun) -> dict[str, torch.Tensor]:
    return {name: w.cpu() for name, w in next(iter(training.fits.values())).weights.items()}


def test_kernels_train_what_torch_trains(rows, monkeypatch):
    """Forty steps in float32, with AuxK at work from the 16th."""
    found = run(rows)
    fit = next(iter(found.fits.values()))
    assert fit.gpu is not None
    assert fit.dead_everywhere
    monkeypatch.setattr(trainers, "kernels_run_on", lambda device: False)
    expected = run(rows)
    assert next(iter(expected.fits.values())).gpu is None
    for name, w in weights(expected).items():
        error = float((weights(found)[name] - w).norm() / w.norm())
        assert error < 2e-3, f"{name} differs by {error:.1e}"
    one, other = (next(iter(each.fits.values())).read_meter() for each in (found, expected))
    assert one == pytest.approx(other, rel=2e-3)


def test_the_dense_step_trains_as_well(rows, monkeypatch):
    monkeypatch.setattr("unbox.sae.gpu.step.is_dense", lambda *sizes: True)
    dense = run(rows, "bf16", 200)
    monkeypatch.setattr("unbox.sae.gpu.step.is_dense", lambda *sizes: False)
    sparse = run(rows, "bf16", 200)
    one, other = (next(iter(each.fits.values())).read_meter()["fvu"] for each in (dense, sparse))
    assert one == pytest.approx(other, rel=0.03)


def test_a_step_repeats_to_the_bit_and_goes_on_from_its_state(rows):
    batches = [torch.from_numpy(rows[i % 8 * B : i % 8 * B + B]).cuda() for i in range(40)]
    whole, half, rest = (next(iter(run(rows, steps=0).fits.values())) for _ in range(3))
    for fit, some in ((whole, batches), (half, batches[:23])):
        for x in some:
            fit.step(x, B, 1.0)
    rest.restore({name: t.clone() for name, t in half.state().items()})
    for x in batches[23:]:
        rest.step(x, B, 1.0)
    assert whole.dead_everywhere
    for name, w in whole.state().items():
        assert torch.equal(rest.state()[name], w), name


def test_a_captured_step_is_one_launch_and_waits_for_nothing(rows):
    x = torch.from_numpy(rows[:B]).cuda()
    for steps, most in ((8, 48), (33, 90)):  # none dead yet; and AuxK at work
        fit = next(iter(run(rows, "bf16", steps).fits.values()))
        assert bool(fit.dead_everywhere) == (steps == 33)
        assert _launches(lambda fit=fit: fit.gpu.take(x, B)) <= most
    fit.steps = 1  # no look at who is dead in what follows
    fit.step(x, B, 1.0)
    with _no_waiting():
        for _ in range(4):
            fit.step(x, B, 1.0)
    assert _launches(lambda: fit.step(x, B, 1.0)) <= 3  # the rate, the rows, the graph


@contextmanager
def _no_waiting():
    """Inside, what makes the host wait for the card is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _launches(call) -> int:
    """Kernels, copies and graphs that a call launches."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU], acc_events=True) as profiler:
        call()
        torch.cuda.synchronize()
    names = ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx")
    names += ("cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
    found = [event.name for event in profiler.events() if event.name in names]
    print(len(found), sorted(set(found)))
    return len(found)
