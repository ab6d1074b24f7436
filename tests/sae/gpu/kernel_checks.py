"""What `test_kernels` runs in a process of its own; prints the name of each check that held."""

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

INTERPRET = "--interpret" in sys.argv
if INTERPRET:
    os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parents[3]))

import pytest  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from unbox.sae import ArrayRows, Spec, train, train_step  # noqa: E402
from unbox.sae.checkpoint import CheckpointWriter  # noqa: E402
from unbox.sae.gpu import launch  # noqa: E402
from unbox.sae.gpu.dead_latents import DeadLatents  # noqa: E402
from unbox.sae.gpu.step import GPUStep  # noqa: E402
from unbox.sae.gpu.training import GPUTraining  # noqa: E402
from unbox.sae.objective import auxk_loss, sae_loss  # noqa: E402
from unbox.sae.plan import make_plan  # noqa: E402
from unbox.sae.training_run import TrainingRun  # noqa: E402

DEVICE = "cpu" if INTERPRET else "cuda"
#: (B, d, n, k): small enough for an interpreter, widths that are no powers of two; and real ones on a card.
SIZES = [(6, 20, 40, 4), (5, 33, 70, 3)] if INTERPRET else [(257, 160, 700, 8), (1024, 1280, 5120, 10)]
BETAS, EPS, RATE, STEP = (0.9, 0.999), 1e-8, 1e-2, 3
#: Relative: float32's; and the bf16 products' of the dense step.
EXACT, LOW = 2e-5, 2e-2


def topk() -> None:
    """Values equal torch.topk's in every dtype and cut into groups; indices point at them."""
    widths = [(40, 4), (600, 3), (1100, 20)] if INTERPRET else [(5120, 10), (5120, 160), (131072, 32)]
    for n, k in widths:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            pre = torch.randn(3, n, device=DEVICE).to(dtype)
            values, indices = launch.topk(pre, k)
            assert torch.equal(values, pre.gather(1, indices.long()))
            assert all(len(set(row)) == k for row in indices.tolist())
            expected = pre.topk(k).values.relu().float()
            assert torch.equal(values.relu().float().sort(descending=True).values, expected), (n, k, dtype)
    few = torch.full((2, 600), -1.0, device=DEVICE)
    few[0, 599], few[1, :2] = 2.0, 3.0
    values, indices = launch.topk(few, 2)
    assert values[0].max() == 2.0
    assert sorted(indices[1].tolist()) == [0, 1]


def keep_largest() -> None:
    values = torch.randn(4, 100, device=DEVICE).relu()
    for k in (1, 7, 60, 99):
        least = values.topk(k).values[:, -1:]
        assert torch.equal(launch.keep_largest(values, k), torch.where(values >= least, values, 0.0))


def weights(d: int, n: int) -> dict[str, Tensor]:
    rows = torch.nn.functional.normalize(torch.randn(n, d, device=DEVICE), dim=1)
    decoder = torch.nn.functional.normalize(torch.randn(n, d, device=DEVICE), dim=1)
    biases = {"b_pre": torch.randn(d, device=DEVICE) / 10, "b_lat": torch.randn(n, device=DEVICE) / 10}
    return {"W_enc": rows, "W_dec": decoder, **biases}


def expected(x: Tensor, w: dict[str, Tensor], m: dict, k: int, variance: float, dead: Tensor | None) -> tuple:
    """Weights and moments after Adam's step (Kingma & Ba) with autograd's gradients, in float64."""
    P = {name: t.double().requires_grad_() for name, t in w.items()}
    M = {name: (a.double(), b.double()) for name, (a, b) in m.items()}
    loss = sae_loss(x.double(), P, "topk", k, variance=variance)
    if dead is not None:
        pre = (x.double() - P["b_pre"]) @ P["W_enc"].T + P["b_lat"]
        best = pre.topk(k)
        codes = torch.zeros_like(pre).scatter(1, best.indices, best.values.relu())
        error = x.double() - codes @ P["W_dec"] - P["b_pre"]
        loss = loss + auxk_loss(x.double(), P, error, dead, kappa=3) / 32
    loss.backward()
    with torch.no_grad():
        radial = (P["W_dec"].grad * P["W_dec"]).sum(1, keepdim=True)
        P["W_dec"].grad -= radial * P["W_dec"]
        for name, p in P.items():
            mean, square = M[name]
            mean.mul_(BETAS[0]).add_(p.grad, alpha=1 - BETAS[0])
            square.mul_(BETAS[1]).addcmul_(p.grad, p.grad, value=1 - BETAS[1])
            root = (square / (1 - BETAS[1] ** STEP)).sqrt() + EPS
            p -= RATE * (mean / (1 - BETAS[0] ** STEP)) / root
        P["W_dec"] /= P["W_dec"].norm(dim=1, keepdim=True)
    return P, M


def close(found: Tensor, truth: Tensor, tolerance: float) -> None:
    error = float((found.double() - truth).norm() / truth.norm())
    assert error <= tolerance, f"relative error {error:.2e}, over {tolerance:.0e}"


def run_step(low: torch.dtype, dense: bool, with_dead: bool, tolerance: float, few: bool = False) -> None:
    for rows, d, n, k in SIZES:
        x, w = torch.randn(rows, d, device=DEVICE) + 1, weights(d, n)
        m = {q: (torch.rand_like(t) / 100, torch.rand_like(t) / 100) for q, t in w.items()}
        variance = 3.0
        dead = torch.arange(2, 12, device=DEVICE) if with_dead else None
        P, M = expected(x, w, m, k, variance, dead)
        step = GPUStep(w, m, k, rows if few else 10**6, BETAS, EPS, low=low, dense=dense)
        of = step.forward(x, 2 / (rows * variance))
        revival = None
        if dead is not None:
            filled = DeadLatents(len(dead) + 6, n, torch.device(DEVICE))
            filled.fill(dead)
            loss, revival = step.revive(of, filled, 1 / 32, kappa=3)
            error = -of.found.error.double()
            truth = auxk_loss(x.double(), {q: t.double() for q, t in w.items()}, error, dead, kappa=3) / 32
            close(loss, truth, tolerance)
        numbers = torch.tensor([RATE, STEP], device=DEVICE).unbind()
        active = step.backward_and_update(x, of, *numbers, revival)
        for name in w:
            close(w[name], P[name].detach(), tolerance)
            for found, truth in zip(m[name], M[name], strict=True):
                close(found, truth, tolerance)
        assert int(active.sum()) == int((of.found.codes > 0).sum())
        assert torch.equal(step.low_encoder, w["W_enc"].to(low))
        if dense:
            assert torch.equal(step.low_decoder, w["W_dec"].to(low))
        ones = torch.ones(n, device=DEVICE)
        torch.testing.assert_close(w["W_dec"].norm(dim=1), ones, rtol=1e-5, atol=1e-5)


def training() -> None:
    """Ten steps, AuxK from the seventh, are those of the trainer by torch's operations."""
    d, n, k, count = (12, 24, 3, 8) if INTERPRET else (160, 1024, 8, 512)
    data = (torch.randn(10 * count, 4) @ torch.randn(4, d) + 1).numpy()
    plan = make_plan(
        [Spec("", k, n)], tokens=10**9, batch_size=count, warmup=0, dead_after=4 * count, precision="fp32"
    )
    fit = next(iter(TrainingRun(plan, {"": ArrayRows(data)}, "cpu").fits.values()))
    near = {name: w.clone().to(DEVICE) for name, w in fit.weights.items()}
    moments = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in near.items()}
    step = GPUStep(near, moments, k, count, train_step.BETAS, train_step.EPS, low=torch.float32)
    silent, steps = torch.zeros(n, dtype=torch.int64, device=DEVICE), torch.zeros((), device=DEVICE)
    sums = torch.zeros(3, dtype=torch.float64, device=DEVICE)
    ours = GPUTraining(step, silent, steps, sums, fit.start.variance, plan.aux, plan.kappa(d))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_step.compiled_step, "AVAILABLE", False)
        for i in range(10):
            x = torch.from_numpy(data[i * count : (i + 1) * count])
            ours.hold(fit.dead.to(DEVICE))
            fit.step(x, count, 1.0)
            ours.rate.fill_(fit.peak)
            ours.take(x.to(DEVICE), count)
            if i == 5:
                fit._look_for_dead()
                assert len(fit.dead)
    assert torch.equal(silent.cpu(), fit.silent)
    for name, w in fit.weights.items():
        close(near[name].cpu(), w.double(), 1e-4)
    close(sums.cpu(), fit.sums, 1e-4)


def folder() -> None:
    """A whole run into a folder: figures of rows held out; stopped, it goes on to the same bits."""
    rows = (torch.randn(160, 3) @ torch.randn(3, 8) + 1).numpy()
    told = {"tokens": 80, "batch_size": 8, "warmup": 0, "dead_after": 24, "precision": "fp32"}
    told |= {"checkpoint_every": 40, "log_every": 24, "progress": False, "held_out": 0.2}
    with TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        whole = train(rows, f"{place}/whole", [Spec("", 2, 12, lr=3e-2)], **told)
        lines = [json.loads(line) for line in Path(place, "whole", "metrics.jsonl").read_text().splitlines()]
        assert len(lines) >= 3
        assert 0 < lines[-1]["held_out_fvu"] < lines[0]["held_out_fvu"] < 2
        write = CheckpointWriter.write

        def stopping(writer: CheckpointWriter, run: TrainingRun) -> None:
            write(writer, run)
            assert all(fit.gpu is not None for fit in run.fits.values())
            raise InterruptedError

        patch.setattr(CheckpointWriter, "write", stopping)
        with pytest.raises(InterruptedError):
            train(rows, f"{place}/parts", [Spec("", 2, 12, lr=3e-2)], **told)
        patch.setattr(CheckpointWriter, "write", write)
        parts = train(rows, f"{place}/parts", [Spec("", 2, 12, lr=3e-2)], **told)
    for name, sae in whole.items():
        assert all(map(torch.equal, sae.state_dict().values(), parts[name].state_dict().values()))


torch.manual_seed(0)
CHECKS = {
    "topk": topk,
    "keep_largest": keep_largest,
    "step": lambda: run_step(torch.float32, False, False, EXACT),
    "dense_step": lambda: run_step(torch.float32, True, False, EXACT),
    "whole_rows": lambda: run_step(torch.float32, False, True, EXACT, few=True),
    "training": training,
    "folder": folder,
    "step_with_auxk": lambda: run_step(torch.float32, False, True, EXACT),
}
for name, check in CHECKS.items():
    check()
    print(name, flush=True)
