"""JumpReLU and Gated: their losses against NumPy, their step against autograd, slices, resuming."""

import numpy as np
import pytest
import torch

from tests.sae.worlds import noise, planted
from unbox.errors import UnboxError
from unbox.sae import ArrayRows, Spec, evaluate, fit, threshold_step, train
from unbox.sae.objective import auxk_loss, decode, gated, gated_loss, jumprelu_loss, pre_activations
from unbox.sae.plan import make_plan
from unbox.sae.training_run import TrainingRun

COUNT, D, N, K = 6, 4, 12, 3
BANDWIDTH, SPARSITY, VARIANCE = 0.8, 0.7, 2.5


def problem(*extra):
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (N, D), "W_dec": (N, D), "b_pre": (D,), "b_lat": (N,), **dict.fromkeys(extra, (N,))}
    return rng.normal(size=(COUNT, D)), {name: rng.normal(size=shape) for name, shape in shapes.items()}


def in_torch(w):
    return {name: torch.from_numpy(value).requires_grad_() for name, value in w.items()}


def test_the_loss_of_jumprelu_and_its_pseudo_gradients_are_their_formulas():
    x, w = problem("log_threshold")
    theta = np.exp(w["log_threshold"])
    pre = (x - w["b_pre"]) @ w["W_enc"].T + w["b_lat"]
    z = np.where(pre > theta, pre, 0)
    error = z @ w["W_dec"] + w["b_pre"] - x
    l0 = (pre > theta).sum() / COUNT
    weights = in_torch(w)
    found = jumprelu_loss(torch.from_numpy(x), weights, K, BANDWIDTH, SPARSITY, VARIANCE)
    expected = np.square(error).sum() / COUNT / VARIANCE + SPARSITY * (l0 / K - 1) ** 2
    assert float(found.detach()) == pytest.approx(expected, rel=1e-12)
    found.backward()
    d_z = 2 * error @ w["W_dec"].T / COUNT / VARIANCE
    near = np.abs(pre - theta) < BANDWIDTH / 2
    assert near.any()
    of_error = -(theta / BANDWIDTH) * (d_z * near).sum(0)
    of_l0 = SPARSITY * 2 * (l0 / K - 1) / K * -near.sum(0) / BANDWIDTH / COUNT
    assert np.allclose(weights["log_threshold"].grad, (of_error + of_l0) * theta, rtol=1e-9)
    assert np.allclose(weights["b_lat"].grad, (d_z * (pre > theta)).sum(0), rtol=1e-9)


def test_the_loss_of_gated_is_its_formula():
    x, w = problem("r_mag", "b_gate")
    u = (x - w["b_pre"]) @ w["W_enc"].T
    gate = u + w["b_gate"]
    z = (gate > 0) * np.maximum(np.exp(w["r_mag"]) * u + w["b_lat"], 0)
    opened = np.maximum(gate, 0)
    errors = [np.square(c @ w["W_dec"] + w["b_pre"] - x).sum() for c in (z, opened)]
    expected = (sum(errors) / VARIANCE + SPARSITY * opened.sum() / VARIANCE**0.5) / COUNT
    weights = in_torch(w)
    found = gated_loss(torch.from_numpy(x), weights, SPARSITY, VARIANCE)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-12)
    found.backward()  # the decoder learns from the codes alone
    by_codes = 2 * z.T @ (z @ w["W_dec"] + w["b_pre"] - x) / VARIANCE / COUNT
    assert np.allclose(weights["W_dec"].grad, by_codes, rtol=1e-9)


def begun(variant, rows=None, **options):
    plan = make_plan([Spec("", 3, 48, variant, lr=1e-2)], batch_size=256, **{"tokens": 256 * 20, **options})
    run = TrainingRun(plan, {"": noise() if rows is None else rows})
    return run, next(iter(run.fits.values()))


@pytest.mark.parametrize("variant", ["jumprelu", "gated"])
@pytest.mark.parametrize("slice_size", [1 << 21, 48 * 7])
def test_a_step_has_the_gradients_of_the_loss(variant, slice_size, monkeypatch):
    monkeypatch.setattr(threshold_step, "SLICE", slice_size)
    run, one = begun(variant)
    for _ in range(3):  # away from where everything is zero
        run.advance()
    x = torch.from_numpy(noise().array[:256]) * one.start.scale
    weights = {name: weight.clone().requires_grad_() for name, weight in one.weights.items()}
    if variant == "jumprelu":
        loss = jumprelu_loss(x, weights, 3, one.bandwidth, threshold_step.SPARSITY, one.start.variance)
    else:
        loss = gated_loss(x, weights, one.sparsity.clone(), one.start.variance)
    loss.backward()
    before = {name: mean.clone() for name, (mean, _) in one.moments.items()}
    one.step(x, 256, 1.0)
    for name, (mean, _) in one.moments.items():
        expected = weights[name].grad
        if name == "W_dec":
            radial = (expected * weights[name].detach()).sum(1, keepdim=True)
            expected = expected - radial * weights[name].detach()
        found = (mean - 0.9 * before[name]) / 0.1
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max())), name
    assert torch.allclose(one.weights["W_dec"].norm(dim=1), torch.ones(48), atol=1e-5)


@pytest.mark.parametrize("variant", ["jumprelu", "gated"])
def test_the_finished_sae_has_the_codes_of_the_trainer(variant):
    rows = noise()
    run, one = begun(variant, rows)
    for _ in range(10):
        run.advance()
    x = torch.from_numpy(rows.array[:100])
    scaled, w = x * one.start.scale, one.weights
    pre = pre_activations(scaled, w)
    codes = gated(scaled, w)[0] if variant == "gated" else pre * (pre > w["log_threshold"].exp())
    sae = one.sae("")
    assert sae.threshold.shape == (48,)
    assert torch.allclose(sae.encode(x).dense(48) * one.start.scale, codes, atol=1e-3)
    assert 0 < (codes > 0).float().mean() < 1


@pytest.mark.parametrize(("variant", "cosine"), [("jumprelu", 0.94), ("gated", 0.95)])
def test_a_planted_dictionary_is_recovered_with_k_active(variant, cosine):
    x, atoms = planted()
    sae = fit(x, 3, 48, variant=variant, tokens=300_000, batch_size=512, lr=1e-2, progress=False)
    nearest = (torch.from_numpy(atoms) @ sae.W_dec.T).amax(1)
    figures = evaluate(sae, ArrayRows(x[:2000]))
    assert float(nearest.mean()) > cosine
    assert figures.l0 == pytest.approx(3, rel=0.15)
    assert figures.fvu < 0.1


@pytest.mark.parametrize("variant", ["jumprelu", "gated"])
def test_a_stopped_run_goes_on_to_the_same_bits(variant, tmp_path, monkeypatch):
    spec = [Spec(k=2, latents=40, variant=variant, lr=1e-3)]
    plan = {"tokens": 6000, "batch_size": 128, "held_out": 0.1, "checkpoint_every": 1000, "progress": False}
    (whole,) = train(noise(), tmp_path / "whole", spec, **plan).values()
    advance, left = TrainingRun.advance, [20]

    class Stop(Exception):
        pass

    def stopping(self, *args):
        left[0] -= 1
        if left[0] < 0:
            raise Stop
        return advance(self, *args)

    monkeypatch.setattr(TrainingRun, "advance", stopping)
    with pytest.raises(Stop):
        train(noise(), tmp_path / "parts", spec, **plan)
    monkeypatch.undo()
    assert list((tmp_path / "parts").glob("checkpoint-*"))
    (parts,) = train(noise(), tmp_path / "parts", spec, **plan).values()
    assert parts.identity == whole.identity
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts")]
    assert all("held_out_fvu" in text for text in lines)


@pytest.mark.parametrize("variant", ["jumprelu", "gated"])
def test_auxk_has_the_gradients_of_its_loss(variant, monkeypatch):
    """Beside autograd of the definition, in slices: dead latents alone learn from it, and b_pre."""
    monkeypatch.setattr(threshold_step, "SLICE", 48 * 7)
    run, one = begun(variant, precision="fp32")
    for _ in range(3):
        run.advance()
    one.dead = torch.arange(30, 48)
    one._count_dead()
    x = torch.from_numpy(noise().array[:256]) * one.start.scale
    weights = {name: weight.clone().requires_grad_() for name, weight in one.weights.items()}
    if variant == "jumprelu":
        loss = jumprelu_loss(x, weights, 3, one.bandwidth, threshold_step.SPARSITY, one.start.variance)
        codes = pre_activations(x, weights) * (pre_activations(x, weights) > weights["log_threshold"].exp())
    else:
        loss = gated_loss(x, weights, one.sparsity.clone(), one.start.variance)
        codes = gated(x, weights)[0]
    aux = auxk_loss(x, weights, x - decode(codes, weights), one.dead, one.plan.kappa(x.shape[1])) / 32
    (loss + aux).backward()
    before = {name: mean.clone() for name, (mean, _) in one.moments.items()}
    one.step(x, 256, 1.0)
    assert float(one.sums[1]) == pytest.approx(float(aux.detach()), rel=1e-4)
    for name, (mean, _) in one.moments.items():
        expected = weights[name].grad
        if name == "W_dec":
            radial = (expected * weights[name].detach()).sum(1, keepdim=True)
            expected = expected - radial * weights[name].detach()
        found = (mean - 0.9 * before[name]) / 0.1
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max())), name


@pytest.mark.parametrize(("variant", "silences"), [("jumprelu", "log_threshold"), ("gated", "b_gate")])
def test_latents_that_never_fire_learn_what_is_left_over(variant, silences):
    """Half of them are silent whatever the rows; what AuxK has them explain is more at the end."""
    run, one = begun(variant, tokens=256 * 100, dead_after=512, warmup=0)
    one.weights[silences][24:] = 9.0 if variant == "jumprelu" else -99.0
    explained = []
    while run.left:
        run.advance()
        explained.append(one.read_meter()["aux"])
    assert one.dead_everywhere >= 24
    assert explained[:16] == [0] * 16
    assert np.mean(explained[-5:]) < 0.8 * np.mean(explained[17:20])


@pytest.mark.parametrize("variant", ["jumprelu", "gated"])
def test_it_begins_with_the_codes_of_another(variant):
    """Of one with thresholds, to rounding; of one without, where k are over one threshold on average."""
    rows, x = noise(), torch.from_numpy(noise().array[:500])
    topk = fit(rows, 3, 48, tokens=4000, progress=False)
    jump = topk.with_threshold(torch.linspace(0.1, 0.5, 48))
    plan = make_plan([Spec("", 3, 48, variant)], tokens=1000, batch_size=128)
    (name,) = plan.names()
    found = TrainingRun(plan, {"": rows}, initial={name: jump}).fits[name].sae(name)
    assert torch.allclose(found.encode(x).dense(48), jump.encode(x).dense(48), atol=1e-4)
    found = TrainingRun(plan, {"": rows}, initial={name: topk}).fits[name].sae(name)
    assert float((found.encode(x).dense(48) > 0).sum(1).float().mean()) == pytest.approx(3, rel=0.15)
    warm = fit(rows, 3, 48, variant=variant, tokens=2000, init_from=jump, progress=False)
    assert evaluate(warm, rows).fvu < 1


def test_what_these_cannot_do_is_refused(tmp_path):
    zero = fit(noise(), 2, 40, tokens=500, progress=False).with_threshold(0.0)
    with pytest.raises(UnboxError, match="40 of the SAE to begin from are not over 0: begin with --variant"):
        fit(noise(), 2, 40, variant="jumprelu", tokens=1000, progress=False, init_from=zero)
    with pytest.raises(UnboxError, match="have no meaning for this variant"):
        Spec(k=2, latents=40, variant="gated", levels=(1, 2))
