"""The sparse operations against autograd of the dense definition (`objective`), in fp64: to 1e-6 relative."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unbox.sae import sparse, topk
from unbox.sae.objective import NESTED_CODES, auxk_loss, decode, pre_activations, sae_loss
from unbox.sae.sparse import AuxK, forward_backward, keep_topk
from unbox.sae.variants import variant

SHAPES = [(7, 5, 11, 3), (1, 4, 4, 4), (16, 8, 64, 1), (32, 16, 70_000, 2)]


def problem(count, d, n, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = {"W_enc": draw(n, d), "W_dec": draw(n, d), "b_pre": draw(d), "b_lat": draw(n)}
    return draw(count, d), {name: w.requires_grad_() for name, w in weights.items()}


def close(a, b):
    scale = b.abs().max().clamp_min(1e-30)
    assert (a - b).abs().max() / scale < 1e-6


def gradients(loss, w):
    return dict(zip(w, torch.autograd.grad(loss, tuple(w.values())), strict=True))


def sparse_pass(x, w, active, level=None, levels=1):
    """The pass and its gradients; the loss is the mean over levels of the summed squares."""
    plain = {name: weight.detach() for name, weight in w.items()}
    centred = x - plain["b_pre"]
    found = forward_backward(centred, active, plain, 1.0, level, levels)
    d_lat = found.b_lat()
    ours = {"W_enc": found.W_enc(centred), "W_dec": found.W_dec(), "b_lat": d_lat}
    return found, {**ours, "b_pre": found.b_pre(plain["W_enc"], d_lat)}


@pytest.mark.parametrize("shape", SHAPES)
def test_topk_step_equals_dense_autograd(shape):
    count, d, n, k = shape
    x, w = problem(count, d, n)
    with torch.no_grad():
        active, pre = topk.by_row(x - w["b_pre"], w["W_enc"], w["b_lat"], k)
    found, ours = sparse_pass(x, w, active)
    (dense,) = NESTED_CODES["topk"](pre_activations(x, w), k, ())
    expected = decode(dense, w)
    close(found.error, expected - x)
    close(found.squares.sum(), (expected - x).square().sum())
    theirs = gradients(sae_loss(x, w, "topk", k) * count, w)
    for name in w:
        close(ours[name], theirs[name])
    close(found.radial(), (theirs["W_dec"] * w["W_dec"]).sum(1))
    codes, at = dense.detach().requires_grad_(), (active.rows, active.indices)
    (slopes,) = torch.autograd.grad((decode(codes, w) - x).square().sum(), codes)
    close(found.values, dense[at])
    close(found.slopes, slopes[at] * (dense[at] > 0))
    close(pre.view(count, k), pre_activations(x, w).topk(k).values)


@pytest.mark.parametrize(("name", "levels"), [("matryoshka", (3, 7, 40)), ("multik", (1, 2, 4))])
def test_nested_losses_equal_dense_autograd(name, levels):
    x, w = problem(12, 6, 40)
    kind = variant(name)
    chooser = topk.by_batch if kind.batchwise else topk.by_row
    with torch.no_grad():
        active, _ = chooser(x - w["b_pre"], w["W_enc"], w["b_lat"], 4)
    found, ours = sparse_pass(x, w, active, kind.level(active, 4, levels), len(levels))
    nested = NESTED_CODES[name](pre_activations(x, w), 4, levels)
    close(found.squares, torch.stack([(decode(codes, w) - x).square().sum() for codes in nested]))
    theirs = gradients(sae_loss(x, w, name, 4, levels) * 12, w)
    for key in w:
        close(ours[key], theirs[key])
    close(found.radial(), (theirs["W_dec"] * w["W_dec"]).sum(1))


def test_a_range_of_latents_has_the_gradients_of_the_whole():
    x, w = problem(30, 6, 50)
    with torch.no_grad():
        active, _ = topk.by_row(x - w["b_pre"], w["W_enc"], w["b_lat"], 3)
    found, whole = sparse_pass(x, w, active)
    centred = (x - w["b_pre"]).detach()
    for part in (slice(0, 20), slice(20, 49), slice(49, 50)):
        assert torch.equal(found.W_enc(centred, part), whole["W_enc"][part])
        assert torch.equal(found.W_dec(part), whole["W_dec"][part])


@pytest.mark.parametrize(("dead", "kappa"), [(1, 256), (3, 256), (30, 256), (30, 5), (30, None)])
def test_auxk_equals_dense_autograd(dead, kappa, monkeypatch):
    monkeypatch.setitem(sparse.SLICE, "cpu", 40)  # several slices of rows
    x, w = problem(9, 8, 40)
    ids = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:dead]
    error = torch.randn(9, 8, dtype=torch.float64)
    norm = (error - error.mean(0)).square().sum()
    with torch.no_grad():
        loss, d_encoder, d_decoder, d_lat = AuxK(1 / 32, kappa).gradients(
            -error, x - w["b_pre"], ids, w, norm, torch.float64
        )
    expected = auxk_loss(x, w, error, ids, kappa) / 32
    close(loss, expected)
    theirs = gradients(expected, w)
    for name, ours in (("W_enc", d_encoder), ("W_dec", d_decoder), ("b_lat", d_lat)):
        close(torch.zeros_like(w[name]).index_add(0, ids, ours), theirs[name])
    close(-(d_lat @ w["W_enc"][ids]), theirs["b_pre"])


def test_strongest_keeps_the_largest():
    z = torch.rand(5, 9)
    kept = keep_topk(z, 3)
    assert torch.equal((kept > 0).sum(1), torch.full((5,), 3))
    assert torch.equal(kept.amax(1), z.amax(1))


def test_auxk_in_bf16_is_within_its_rounding():
    x, w = problem(300, 64, 200)
    ids, error = torch.arange(20, 60), torch.randn(300, 64, dtype=torch.float64) + 0.5
    with torch.no_grad():
        single = {name: t.float() for name, t in w.items()}
        rows = (-error).bfloat16(), (x - w["b_pre"]).bfloat16()
        norm = (error - error.mean(0)).square().sum().float()
        loss, *ours = AuxK(1 / 32, 256).gradients(*rows, ids, single, norm, torch.bfloat16)
    expected = auxk_loss(x, w, error, ids, 256) / 32
    assert float(loss) == pytest.approx(expected.item(), rel=1e-3)
    theirs = gradients(expected, w)
    for name, found in zip(("W_enc", "W_dec", "b_lat"), ours, strict=True):
        truth = theirs[name][ids]
        assert found.dtype == torch.float32
        assert (found - truth).norm() < 0.01 * truth.norm(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("available", [True, False], ids=["compiled", "numpy"])
@pytest.mark.parametrize(("r", "k"), [(1, 1), (33, 32), (640, 256), (40_000, 1), (40_000, 39_999)])
def test_keeping_the_largest_is_by_sorting(dtype, available, r, k, monkeypatch):
    monkeypatch.setattr(sparse, "AVAILABLE", available)
    z = torch.randn(6, r, generator=torch.Generator().manual_seed(r + k)).relu().to(dtype)
    z[1] = 0
    z[2] = z[2].amax()  # all equal
    least = z.sort(dim=1, descending=True).values[:, k - 1 : k]
    assert torch.equal(keep_topk(z, k), torch.where(z >= least, z, 0))


@given(
    st.integers(1, 6), st.integers(1, 700), st.integers(1, 64), st.integers(0, 5), st.sampled_from(["f", "b"])
)
def test_largest_is_topk(count, n, k, seed, kind):
    k = min(k, n)
    pre = torch.randn(count, n, generator=torch.Generator().manual_seed(seed))
    pre = pre.abs().bfloat16() if kind == "b" else pre  # bf16 promises the order of what is positive
    values, indices = topk.largest(pre, k)
    assert torch.equal(values, pre.topk(k).values)
    assert torch.equal(pre.gather(1, indices), values)
    assert all(len(set(row)) == k for row in indices.tolist())


@pytest.mark.parametrize("slice_size", [10, 1 << 22])
def test_by_batch_takes_the_largest_of_the_batch(slice_size, monkeypatch):
    monkeypatch.setitem(sparse.SLICE, "cpu", slice_size)
    x, w = problem(20, 6, 30)
    active, values = topk.by_batch(x, w["W_enc"].detach(), w["b_lat"].detach(), 4)
    pre = (x @ w["W_enc"].T + w["b_lat"]).detach().relu()
    expected = pre.flatten().topk(80).values
    assert torch.allclose(values.sort(descending=True).values, expected)
    assert torch.equal(active.rows, active.rows.sort().values)
    close(pre[active.rows, active.indices], values)


def test_by_batch_with_ties_and_with_nothing_positive():
    weight, bias = torch.ones(6, 2), torch.zeros(6)
    active, _ = topk.by_batch(torch.ones(3, 2), weight, bias, 2)
    assert len(active.indices) == 6
    active, values = topk.by_batch(-torch.ones(3, 2), weight, bias, 2)
    assert len(active.indices) == len(values) == 0
    assert torch.equal(sparse.mix(values, active, weight), torch.zeros(3, 2))
    assert torch.equal(sparse.spread(values, active, torch.ones(3, 2)), torch.zeros(6, 2))


def test_slices_change_nothing(monkeypatch):
    x, w = problem(50, 6, 64)
    whole, _ = topk.by_row(x, w["W_enc"].detach(), w["b_lat"].detach(), 3)
    monkeypatch.setattr(topk, "CACHED", 64 * 7)
    parts, _ = topk.by_row(x, w["W_enc"].detach(), w["b_lat"].detach(), 3)
    assert torch.equal(whole.indices, parts.indices)


def test_rows_with_few_positive_entries_are_as_topk_has_them():
    """The compiled loop tells apart what is positive alone: such rows are sorted."""
    pre = -torch.rand(9, 640, generator=torch.Generator().manual_seed(1)) - 0.1
    pre[1, 5], pre[2, :4], pre[3, :5] = 2.0, torch.arange(1.0, 5), torch.arange(1.0, 6)
    pre[4:6] = 0
    for array in (pre, pre * 1e-30):
        values, indices = topk.largest(array, 5)
        assert torch.equal(values, array.topk(5).values)
        assert torch.equal(array.gather(1, indices), values)
        assert indices[4].tolist() == [0, 1, 2, 3, 4]


def test_selection_in_threads_equals_one(monkeypatch):
    pre = torch.randn(37, 640, generator=torch.Generator().manual_seed(0))
    pre[3] = 0  # all equal: the first k
    one = topk.largest(pre, 5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for ours, theirs in zip(one, topk.largest(pre, 5), strict=True):
        assert torch.equal(ours, theirs)
    assert one[1][3].tolist() == [0, 1, 2, 3, 4]


def test_rows_without_entries():
    active = sparse.Active.of_flat(torch.tensor([2, 0]), torch.tensor([1, 3]), 5, 4)
    weight = torch.arange(8.0).view(4, 2)
    mixed = sparse.mix(torch.tensor([1.0, 2.0]), active, weight)
    assert mixed.tolist() == [[0, 0], [4, 5], [0, 0], [0, 2], [0, 0]]
    assert sparse.total(torch.tensor([1.0, 2.0]), active).tolist() == [2, 0, 1, 0]
