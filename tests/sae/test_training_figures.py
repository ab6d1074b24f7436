"""Figures that lines of metrics hold, against autograd and direct arithmetic."""

import json

import numpy as np
import pytest
import torch

from tests.sae.worlds import noise
from unbox.sae import ArrayRows, Spec, evaluate, objective, train
from unbox.sae.fit import steps
from unbox.sae.learning_rate import schedule
from unbox.sae.plan import make_plan
from unbox.sae.training_figures import LOOKED_AT, first_moments, gradient_norm, held_out_figures
from unbox.sae.training_run import TrainingRun


@pytest.mark.parametrize("name", objective.NESTED_CODES)
def test_the_norm_is_that_of_autograd(name):
    """Whichever way the step is taken (compiled for topk), from the weights before it."""
    rows = noise()
    spec = Spec("", 4, 64, name)
    run = TrainingRun(make_plan([spec], tokens=10**6, batch_size=256, precision="fp32"), {"": rows})
    (one,) = run.fits.values()
    for _ in range(3):
        run.advance()
    x, _ = run._next(run.lanes[""])
    weights = {k: w.double().requires_grad_() for k, w in one.weights.items()}
    loss = objective.sae_loss(x.double(), weights, name, 4, one.spec.levels, one.start.variance)
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    W = weights["W_dec"].detach()
    gradients["W_dec"] -= (gradients["W_dec"] * W).sum(1, keepdim=True) * W
    wanted = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
    before = first_moments(one)
    one.step(x, len(x), 1.0)
    assert gradient_norm(one, before) == pytest.approx(float(wanted), rel=1e-4)


def test_of_a_clipped_gradient_it_is_the_limit():
    plan = make_plan([Spec("", 4, 64)], tokens=10**6, batch_size=256, clip_norm=1e-3)
    run = TrainingRun(plan, {"": noise()})
    run.advance(measured=True)
    assert run.lanes[""].gradients["rows_k4_n64"] == pytest.approx(1e-3, rel=1e-4)


def test_held_out_figures_are_those_of_an_evaluation():
    x = noise(4000).array
    plan = make_plan([Spec("", 4, 64)], tokens=20_000, batch_size=256, precision="fp32")
    run = TrainingRun(plan, {"": ArrayRows(x[:3000])})
    steps(run, False)
    (one,) = run.fits.values()
    rows = torch.from_numpy(x[3000:]) * one.start.scale
    found = held_out_figures(one, rows, len(rows))
    wanted = evaluate(one.sae(""), x[3000:])
    assert found["held_out_fvu"] == pytest.approx(wanted.fvu, rel=1e-4)
    assert found["held_out_l0"] == pytest.approx(wanted.l0, rel=1e-6)
    assert found["dense_fraction"] == wanted.dense_fraction
    assert tuple(found["density_histogram"]) == wanted.density_histogram


def test_lines_of_metrics(tmp_path):
    """Held-out figures, density, the gradient's norm and rows of extreme norm, in every line."""
    array = noise(6000).array.copy()
    array[::100] *= 50
    options = {"tokens": 5000, "batch_size": 100, "log_every": 1000, "held_out": 0.1, "progress": False}
    (sae,) = train(ArrayRows(array), tmp_path / "run", [Spec("", 2, 24)], **options).values()
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 10  # a checkpoint every 500 rows reads them too
    for line in lines:
        assert 0 < line["held_out_fvu"] < 1.5
        assert line["grad_norm"] > 0
        assert sum(line["density_histogram"]) == 24
    assert sum(line["extreme_rows"] for line in lines) == pytest.approx(50, abs=15)
    assert sae.meta["figures"]["extreme_rows"] > 0
    assert LOOKED_AT * 4 <= 65_536


def test_rows_of_extreme_norm_are_left_out():
    """With them the SAE is another; without, it is that of the rows alone, in the same order."""
    array = noise(3000).array.copy()
    plain = ArrayRows(array)
    spoilt = ArrayRows(array * np.where(np.arange(3000) % 100 == 7, 60, 1)[:, None].astype(np.float32))
    plan = make_plan([Spec("", 2, 24)], tokens=3000, batch_size=100, max_norm=10, scaled=False)
    run = TrainingRun(plan, {"": spoilt}, starts={"": TrainingRun(plan, {"": plain}).lanes[""].start})
    steps(run, False)
    assert int(run.lanes[""].done) == 3000
    (one,) = run.fits.values()
    other = TrainingRun(plan, {"": plain})
    (two,) = other.fits.values()
    done = 0
    for batch in spoilt.batches(100, seed=0, epochs=1):
        kept = batch[np.linalg.norm(batch, axis=1) < 10 * one.start.norm]
        two.step(torch.from_numpy(kept), len(kept), schedule(two.budget, done))
        done += len(batch)
    assert all(torch.equal(w, two.weights[name]) for name, w in one.weights.items())
    figures = evaluate(one.sae(""), spoilt, max_norm=10)
    assert (figures.rows, figures.extreme_rows) == (2970, 30)
    assert figures.fvu == pytest.approx(evaluate(one.sae(""), plain.array[np.arange(3000) % 100 != 7]).fvu)
