"""The compiled step against dense autograd in fp64, against torch's path, and its threads."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.sae.test_sparse import close, gradients, problem
from tests.sae.worlds import noise
from unbox.sae import Spec
from unbox.sae.cpu import compiled_step, dense_step, topk_kernel
from unbox.sae.cpu.threads import parallel_for, worker_threads
from unbox.sae.objective import NESTED_CODES, auxk_loss, decode, pre_activations, sae_loss
from unbox.sae.plan import make_plan
from unbox.sae.training_run import TrainingRun

BETA1 = 0.9


def low_of(weights, dtype):
    """The encoder with b_lat in the next column, as `SAETrainer` keeps it."""
    n, d = weights["W_enc"].shape
    low = torch.zeros(n, d + compiled_step.EXTRA, dtype=dtype)
    low[:, :d], low[:, d] = weights["W_enc"], weights["b_lat"]
    return low


def one_step(x, w, k, dtype, factor=2.0, dead=None, revival=None, by=compiled_step):
    """The pass, the gradients that Adam's first moments tell of, and what the update returns."""
    plain = {name: t.detach().clone() for name, t in w.items()}
    low = low_of(plain, dtype)
    with worker_threads():
        chosen = by.forward(x, plain, low, k, factor)
    moments = {name: (torch.zeros_like(t), torch.zeros_like(t)) for name, t in plain.items()}
    adam = compiled_step.adam_numbers(BETA1, 0.999, 1e-8, 1e-3, 1).astype(x.numpy().dtype)
    adam[0] = BETA1  # as a number of fp64, where the rows are
    with worker_threads():
        d_pre, fired = by.backward_and_update(chosen, plain, moments, low, adam, dead, revival)
    found = {name: moments[name][0] / (1 - BETA1) for name in ("W_enc", "W_dec", "b_lat")}
    return chosen, {**found, "b_pre": d_pre}, fired, plain, low


@pytest.mark.parametrize(
    "shape", [(7, 5, 11, 3), (1, 4, 4, 4), (16, 8, 64, 1), (130, 16, 900, 30), (33, 7, 70_000, 2)]
)
def test_a_step_equals_dense_autograd(shape):
    count, d, n, k = shape
    x, w = problem(count, d, n)
    with torch.no_grad():
        w["W_dec"].copy_(torch.nn.functional.normalize(w["W_dec"]))
    chosen, ours, fired, after, low = one_step(x, w, k, torch.float64)
    (codes,) = NESTED_CODES["topk"](pre_activations(x, w), k, ())
    found = decode(codes, w)
    close(chosen.reconstruction_grad, found - x)
    assert chosen.squares == pytest.approx(float((found - x).detach().square().sum()))
    theirs = gradients(sae_loss(x, w, "topk", k) * count, w)
    radial = (theirs["W_dec"] * w["W_dec"]).sum(1, keepdim=True)
    theirs["W_dec"] = theirs["W_dec"] - radial * w["W_dec"]
    for name in w:
        close(ours[name], theirs[name])
    assert torch.equal(fired, (codes > 0).any(0))
    close(after["W_dec"].norm(dim=1), torch.ones(n, dtype=torch.float64))
    assert torch.equal(low[:, :d], after["W_enc"])
    assert torch.equal(low[:, d], after["b_lat"])


def test_auxk_gradients_are_added_to_the_dead():
    x, w = problem(20, 6, 40)
    with torch.no_grad():
        w["W_dec"].copy_(torch.nn.functional.normalize(w["W_dec"]))
    dead = torch.tensor([3, 17, 39])
    extra = tuple(torch.randn(3, *tail, dtype=torch.float64) for tail in ((6,), (6,), ()))
    _, without, *_ = one_step(x, w, 4, torch.float64)
    _, with_, *_ = one_step(x, w, 4, torch.float64, dead=dead, revival=extra)
    direction = w["W_dec"].detach()[dead]
    across = extra[1] - (extra[1] * direction).sum(1, keepdim=True) * direction
    for name, added in zip(("W_enc", "W_dec", "b_lat"), (extra[0], across, extra[2]), strict=True):
        close(with_[name][dead], without[name][dead] + added)
        others = torch.ones(40, dtype=torch.bool)
        others[dead] = False
        assert torch.equal(with_[name][others], without[name][others])
    close(without["b_pre"] - with_["b_pre"], extra[2] @ w["W_enc"].detach()[dead])


def test_in_bf16_only_what_is_summed_is_rounded():
    """Codes and reconstructions are those of the winners in fp32; gradients are within bf16's rounding."""
    x, w = (
        t.float() if isinstance(t, torch.Tensor) else {n: v.float() for n, v in t.items()}
        for t in problem(64, 32, 256)
    )
    chosen, ours, _, after, low = one_step(x, w, 8, torch.bfloat16)
    centred, plain = x - w["b_pre"], {name: t.detach() for name, t in w.items()}
    rows = torch.arange(64).repeat_interleave(8).view(64, 8)
    pre = (centred @ plain["W_enc"].T + plain["b_lat"]).detach()
    assert torch.allclose(chosen.values, pre[rows, chosen.indices].relu(), rtol=1e-4, atol=1e-5)
    codes = torch.zeros(64, 256).scatter_(1, chosen.indices, chosen.values)
    error = codes @ plain["W_dec"] - centred.detach()
    assert torch.allclose(chosen.reconstruction_grad.float(), error, rtol=2**-8, atol=1e-4)
    exact = 2 * codes.T @ error
    exact -= (exact * plain["W_dec"]).sum(1, keepdim=True) * plain["W_dec"]
    assert (ours["W_dec"] - exact).norm() < 4e-3 * exact.norm()
    assert torch.equal(low[:, :32], after["W_enc"].bfloat16())


@pytest.mark.parametrize("shape", [(7, 5, 96, 3), (1, 4, 40, 4), (130, 16, 900, 30), (300, 24, 520, 70)])
def test_a_dense_step_equals_dense_autograd(shape, monkeypatch):
    """In float32, over several slices of rows and of latents; AuxK's gradients come to the dead alone."""
    monkeypatch.setattr(dense_step, "SLICE", 128 * shape[2])
    count, d, n, k = shape
    x, w = problem(count, d, n)
    w = {name: t.detach().float().requires_grad_() for name, t in w.items()}
    x = x.float()
    with torch.no_grad():
        w["W_dec"].copy_(torch.nn.functional.normalize(w["W_dec"]))
    dead = torch.tensor([0, n // 2, n - 1])
    extra = tuple(torch.randn(3, *tail) for tail in ((d,), (d,), ()))
    chosen, ours, fired, after, low = one_step(
        x, w, k, torch.float32, dead=dead, revival=extra, by=dense_step
    )
    (codes,) = NESTED_CODES["topk"](pre_activations(x, w), k, ())
    found = (decode(codes, w) - x).detach()
    assert torch.allclose(chosen.reconstruction_grad, found, atol=1e-4)
    assert chosen.squares == pytest.approx(float(found.square().sum()), rel=1e-4)
    theirs = gradients(sae_loss(x, w, "topk", k) * count, w)
    w = {name: t.detach() for name, t in w.items()}
    theirs["b_pre"] = theirs["b_pre"] - extra[2] @ w["W_enc"][dead]
    for name, added in zip(("W_enc", "W_dec", "b_lat"), extra, strict=True):
        theirs[name] = theirs[name].index_add(0, dead, added)
    radial = (theirs["W_dec"] * w["W_dec"]).sum(1, keepdim=True)
    theirs["W_dec"] = theirs["W_dec"] - radial * w["W_dec"]
    for name in w:
        assert torch.allclose(
            ours[name], theirs[name], rtol=1e-3, atol=1e-4 * float(theirs[name].abs().max())
        )
    assert torch.equal(fired, (codes > 0).any(0))
    assert torch.allclose(after["W_dec"].norm(dim=1), torch.ones(n), atol=1e-5)
    assert torch.equal(low[:, :d], after["W_enc"])
    assert torch.equal(low[:, d], after["b_lat"])


def test_dense_products_in_bf16_are_within_its_rounding():
    x, w = problem(64, 32, 256)
    x, w = x.float(), {name: t.detach().float() for name, t in w.items()}
    _, ours, *_ = one_step(x, w, 40, torch.bfloat16, by=dense_step)
    _, exact, *_ = one_step(x, w, 40, torch.float32)
    for name in ("W_enc", "W_dec", "b_lat", "b_pre"):
        assert (ours[name] - exact[name]).norm() < 0.03 * exact[name].norm(), name


def test_dense_products_are_for_many_active_latents_where_the_processor_has_tiles(monkeypatch):
    """By docs/sae.md's arithmetic: for k = 160 at the paper's shape, not for k = 10; never without AMX."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert dense_step.is_dense(4096, 1280, 5120, 160)
    assert [dense_step.is_dense(4096, 1280, 5120, k) for k in (10, 54, 55)] == [False, False, True]
    assert not dense_step.is_dense(4096, 1280, 131_072, 160)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not dense_step.is_dense(4096, 1280, 5120, 160)


def test_training_by_dense_products_learns_what_gathering_learns(monkeypatch):
    ended = []
    for dense in (False, True):
        monkeypatch.setattr(dense_step, "is_dense", lambda *shape, dense=dense: dense)
        plan = make_plan([Spec("", 40, 480)], precision="bf16", batch_size=128, tokens=128 * 100)
        run = TrainingRun(plan, {"": noise(rows=1000)})
        (fit,) = run.fits.values()
        assert fit.native
        assert fit.dense is dense
        while run.left:
            run.advance()
        ended.append(fit.read_meter()["fvu"])
    assert ended[1] == pytest.approx(ended[0], rel=0.02)


def test_auxk_in_bf16_is_within_its_rounding():
    """What dead latents get is from rows, errors and products in bf16; the definition is by autograd in fp64.
    Some winners of rows are others in bf16, and so are these rows' errors."""
    plan = make_plan([Spec("", 4, 480)], precision="bf16", batch_size=128, tokens=128)
    (fit,) = TrainingRun(plan, {"": noise(rows=1000)}).fits.values()
    assert fit.native
    x = torch.randn(128, len(fit.weights["b_pre"]), generator=torch.Generator().manual_seed(2)) + 1
    w = {name: t.double().requires_grad_() for name, t in fit.weights.items()}
    with torch.no_grad():
        (codes,) = NESTED_CODES["topk"](pre_activations(x.double(), w), 4, ())
        error = x.double() - decode(codes, w)
    fit.dead = dead = (codes <= 0).all(0).nonzero().squeeze(1)[:9]  # AuxK's gradient is their only one
    fit._count_dead()
    theirs = gradients(auxk_loss(x.double(), w, error, dead, 256) / 32, w)
    theirs["W_dec"] -= (theirs["W_dec"] * w["W_dec"]).sum(1, keepdim=True) * w["W_dec"]
    fit.step(x, len(x), 1.0)
    for name in ("W_enc", "W_dec", "b_lat"):
        found, truth = fit.moments[name][0][dead].double() / (1 - BETA1), theirs[name][dead]
        assert (found - truth).norm() < 0.1 * truth.norm(), name
    known = float(auxk_loss(x.double(), w, error, dead, 256).detach()) / 32
    assert float(fit.sums[1]) == pytest.approx(known, rel=1e-2)


@pytest.mark.parametrize("dead", [0, 9])
@pytest.mark.parametrize("k", [4, compiled_step.FEW + 1])
def test_training_goes_as_by_torchs_path(monkeypatch, dead, k):
    """Equal gradients in the first step; later Adam turns differences in rounding into steps."""
    first, ended = [], []
    for available in (True, False):
        monkeypatch.setattr(compiled_step, "AVAILABLE", available)
        plan = make_plan([Spec("", k, 480)], precision="fp32", batch_size=128, tokens=128 * 60)
        run = TrainingRun(plan, {"": noise(rows=1000)})
        (fit,) = run.fits.values()
        assert fit.native is available
        fit.dead = torch.arange(dead)
        fit._count_dead()
        run.advance()
        first.append({name: fit.moments[name][0].clone() for name in fit.weights})
        while run.left:
            run.advance()
        ended.append(fit.read_meter())
    for name, moment in first[0].items():
        assert torch.allclose(moment, first[1][name], rtol=1e-4, atol=1e-4 * float(moment.abs().max())), name
    assert ended[0] == pytest.approx(ended[1], rel=2e-2)


@given(
    rows=st.lists(st.lists(st.integers(-5, 5), min_size=24, max_size=24), min_size=1, max_size=4),
    k=st.integers(1, 6),
    size=st.sampled_from([1, 2, 3]),
)
def test_winners_are_the_largest_and_of_equals_the_first(rows, k, size):
    array = np.array(rows, np.int16)
    array = np.concatenate([array, array[:, :1]], 1)  # one that is in no group, where groups are larger
    found = np.empty((len(array), k), np.int64)
    topk_kernel.topk_rows(array, size, k, found)
    left = np.maximum(array.astype(int), 0)  # what is not positive is 0 after the ReLU
    assert np.array_equal(found, np.argsort(-left, axis=1, kind="stable")[:, :k])


@pytest.mark.parametrize("kind", [np.int16, np.int32])
def test_of_a_row_of_equals_the_first_are_taken(kind):
    array = np.full((2, 900), 7, kind)
    array[1, 5::7] = np.iinfo(kind).max
    found = np.empty((2, 9), np.int64)
    for size in (1, 4, 8):
        topk_kernel.topk_rows(array, size, 9, found)
        assert found[0].tolist() == list(range(9))
        assert found[1].tolist() == list(range(5, 5 + 7 * 9, 7))


def test_workers_share_a_range_and_leave_torchs_threads_as_they_were():
    before, seen, inside = torch.get_num_threads(), [], []
    torch.set_num_threads(2)
    try:
        with worker_threads():
            inside.append(torch.get_num_threads())
            parallel_for(lambda part: seen.append((part.start, part.stop, torch.get_num_threads())), 11)
        assert torch.get_num_threads() == 2
        thread = threading.Thread(target=lambda: inside.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    finally:
        torch.set_num_threads(before)
    assert inside == [1, 2]
    assert sorted(seen) == [(0, 5, 1), (5, 11, 1)]


def test_an_error_of_a_worker_is_raised_and_torchs_threads_are_restored():
    def work(part):
        raise RuntimeError("stop")

    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="stop"), worker_threads():
        parallel_for(work, 10)
    assert torch.get_num_threads() == before
