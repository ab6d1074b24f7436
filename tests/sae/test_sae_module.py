"""The SAE as a torch module: gradients against autograd of the dense definition, state, moving, threshold."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.edits.dictionaries import random_sae
from unbox.errors import UnboxError
from unbox.sae import SAE, Codes, load_saes
from unbox.sae.objective import decode, pre_activations, topk
from unbox.sae.sae_folder import WEIGHTS

ROWS, WIDTH, LATENTS, K = 9, 5, 24, 3


def double_sae(threshold=None):
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (LATENTS, WIDTH), "W_dec": (LATENTS, WIDTH), "b_pre": (WIDTH,), "b_lat": (LATENTS,)}
    weights = {
        name: torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()
    }
    x = torch.randn(3, ROWS // 3, WIDTH, generator=generator, dtype=torch.float64)
    return SAE(**weights, k=K, threshold=threshold), x


def dense(sae, x):
    """Codes (N, n) and reconstructions (N, d) of the definition, with its autograd graph; and its weights."""
    weights = {name: getattr(sae, name).detach().clone().requires_grad_() for name in WEIGHTS}
    rows = x.detach().reshape(-1, WIDTH).requires_grad_()
    pre = pre_activations(rows, weights)
    codes = topk(pre, K) if sae.threshold is None else pre.relu() * (pre > sae.threshold)
    return codes, decode(codes, weights), {**weights, "x": rows}


def gradients(loss, inputs):
    return torch.autograd.grad(loss, inputs, allow_unused=True)


@pytest.mark.parametrize("threshold", [None, 0.3, tuple(np.linspace(-1, 2, LATENTS))])
@pytest.mark.parametrize("of", ["codes", "reconstruction"])
def test_gradients_are_those_of_the_dense_definition(threshold, of):
    sae, x = double_sae(threshold)
    sae.requires_grad_()
    x.requires_grad_()
    codes, expected, inputs = dense(sae, x)
    found = sae.encode(x)
    generator = torch.Generator().manual_seed(1)
    if of == "codes":
        by = torch.rand(codes.shape, generator=generator, dtype=torch.float64)
        ours, theirs = (found.dense(LATENTS).reshape(codes.shape) * by).sum(), (codes * by).sum()
    else:
        by = torch.rand(expected.shape, generator=generator, dtype=torch.float64)
        ours, theirs = (sae.decode(found).reshape(by.shape) * by).sum(), (expected * by).sum()
    assert torch.allclose(ours, theirs, rtol=1e-12)
    wanted = [*(getattr(sae, name) for name in WEIGHTS), x]
    for name, mine, other in zip(
        (*WEIGHTS, "x"), gradients(ours, wanted), gradients(theirs, list(inputs.values())), strict=True
    ):
        if of == "codes" and name == "W_dec":
            assert mine is None
            assert other is None
        else:
            assert torch.allclose(mine.reshape(other.shape), other, rtol=1e-9, atol=1e-12), name
            assert other.abs().max() > 0.01


def test_only_what_asks_for_a_gradient_has_one():
    sae, x = double_sae()
    assert not sae(x).requires_grad  # weights that were read are not being trained
    values, indices = sae.encode(x.requires_grad_())
    assert values.requires_grad
    assert not indices.is_floating_point()
    with torch.no_grad():
        assert not sae.encode(x).values.requires_grad
    assert torch.equal(sae.encode(x).values, sae.encode(x.detach()).values)  # to the bit
    sae.W_dec.requires_grad_()
    sae(x.detach()).square().sum().backward()
    assert sae.W_dec.grad is not None
    assert sae.W_enc.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_in_half_precision(dtype):
    sae, x = double_sae()
    sae.to(dtype=dtype).requires_grad_()
    x = x.to(dtype).requires_grad_()
    sae(x).float().square().sum().backward()
    assert x.grad.dtype == sae.W_enc.grad.dtype == dtype
    assert x.grad.isfinite().all()
    assert sae.W_dec.grad.abs().sum() > 0


def test_fine_tuning_the_decoder_by_an_optimizer_of_torch():
    """Every other weight stays to the bit, and the error comes down to that of least squares."""
    sae, _ = double_sae()
    rows = torch.randn(400, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    before = {name: getattr(sae, name).clone() for name in WEIGHTS}
    sae.W_dec.requires_grad_()
    codes, target = sae.encode(rows).dense(LATENTS).numpy(), (rows - sae.b_pre).numpy()
    best = np.linalg.lstsq(codes, target, rcond=1e-12)[0]
    least = float(np.square(target - codes @ best).sum())
    optimizer = torch.optim.LBFGS([p for p in sae.parameters() if p.requires_grad], max_iter=300)

    def loss():
        optimizer.zero_grad()
        error = (sae(rows) - rows).square().sum()
        error.backward()
        return error

    start = float(loss().detach())
    optimizer.step(loss)
    assert float(loss().detach()) == pytest.approx(least, rel=1e-3)
    assert least < 0.5 * start
    for name in ("W_enc", "b_pre", "b_lat"):
        assert torch.equal(getattr(sae, name), before[name])


def test_state_and_parameters_are_the_weights():
    sae = random_sae()
    assert list(sae.state_dict()) == list(WEIGHTS)
    assert [name for name, _ in sae.named_parameters()] == list(WEIGHTS)
    jump = sae.with_threshold(0.1)
    assert list(jump.state_dict()) == [*WEIGHTS, "threshold"]
    other = replace(jump, W_enc=torch.zeros_like(sae.W_enc), b_lat=sae.b_lat + 1).with_threshold(0.2)
    assert other.identity != jump.identity
    other.load_state_dict(jump.state_dict())
    assert other.identity == jump.identity
    with pytest.raises(RuntimeError, match="threshold"):
        sae.load_state_dict(jump.state_dict())
    holder = nn.ModuleDict({"mid": sae})  # inside another module, as hooks of a model have it
    assert "mid.W_dec" in holder.state_dict()


def test_moving_changes_the_module_and_a_copy_shares_its_weights():
    sae = random_sae().with_threshold((0.1,) * 12)
    identity = sae.identity
    twin = copy.copy(sae)
    assert twin.W_enc.data_ptr() == sae.W_enc.data_ptr()
    assert twin.stats is sae.stats
    assert twin.to(dtype=torch.float16) is twin
    assert (twin.dtype, sae.dtype, twin.threshold.dtype) == (torch.float16, torch.float32, torch.float64)
    assert sae.identity == identity
    deep = copy.deepcopy(sae)
    assert deep.identity == identity
    assert deep.W_enc.data_ptr() != sae.W_enc.data_ptr()
    assert sae.double().dtype == torch.float64


@pytest.mark.parametrize("threshold", [(1.0,) * 11, [[1.0]], float("nan"), (float("inf"),) * 12])
def test_thresholds_are_numbers_one_for_all_or_each(threshold):
    with pytest.raises(UnboxError, match="a threshold is a finite number, or one for each of 12 latents"):
        random_sae().with_threshold(threshold)


@pytest.mark.parametrize("threshold", [None, 0.1, (0.1,) * 12])
def test_thresholds_on_disk(threshold, tmp_path):
    """One for each is among the tensors, exactly, and not in the configuration."""
    sae = random_sae().with_threshold(threshold)
    sae.save(tmp_path / "sae")
    config = (tmp_path / "sae" / "config.json").read_text()
    assert ('"version": 2' in config) == ('"threshold": "tensor"' in config) == isinstance(threshold, tuple)
    found = SAE.load(tmp_path / "sae")
    assert found.identity == sae.identity
    assert threshold is None or torch.equal(found.threshold, torch.tensor(threshold, dtype=torch.float64))


def test_encoding_with_a_threshold_for_each_of_many_latents_makes_no_list(monkeypatch):
    """At 131,072 latents a tuple of numbers took 18 ms a call."""
    n = 131_072
    weight = torch.zeros(n, 1)
    sae = SAE(weight, weight, torch.zeros(1), torch.linspace(-1, 1, n), 1, threshold=torch.full((n,), 0.9999))
    over = int((sae.b_lat > torch.tensor(0.9999)).sum())
    for name in ("tolist", "item"):
        monkeypatch.setattr(torch.Tensor, name, lambda *a: pytest.fail("a list was made"))
    monkeypatch.setattr(torch, "tensor", lambda *a, **k: pytest.fail("a tensor was made of numbers"))
    codes = sae.encode(torch.zeros(2, 1))
    assert codes.indices.shape == (2, over)


def test_a_module_of_codes_can_be_attributed(tmp_path):
    """Gradient times activation of a code is what a linear read-out loses without it."""
    sae, x = double_sae()
    values, indices = sae.encode(x)
    values = values.detach().requires_grad_()
    direction = torch.randn(WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (sae.decode(Codes(values, indices)) @ direction).sum().backward()
    whole = sae.decode(sae.encode(x)) @ direction
    for place in range(K):
        without = values.detach().clone()
        without[..., place] = 0
        lost = whole - sae.decode(Codes(without, indices)) @ direction
        assert torch.allclose((values.grad * values.detach())[..., place], lost, atol=1e-12)


def test_a_folder_of_many_is_still_read(tmp_path):
    for name in ("a", "b"):
        replace(random_sae(), name=name).save(tmp_path / name)
    assert all(isinstance(sae, nn.Module) for sae in load_saes(tmp_path).values())
