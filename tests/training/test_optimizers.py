"""Muon in batches against PyTorch's own, one matrix at a time."""

import torch
from torch import nn

from unbox.training.optimizers import BatchedMuon, matrices_and_rest, muon, orthogonal


def test_batched_muon_is_torchs_muon():
    torch.manual_seed(0)
    start = [torch.randn(8, 12), torch.randn(8, 12), torch.randn(12, 8), torch.randn(6, 4, 3, 3)]
    ours = [nn.Parameter(p.clone()) for p in start]
    theirs = [nn.Parameter(p.clone().flatten(1)) for p in start]
    batched = BatchedMuon(ours, lr=0.02)
    plain = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.flatten(1).clone()
        batched.step()
        plain.step()
    for a, b, before in zip(ours, theirs, start, strict=True):
        moved = (a.flatten(1) - before.flatten(1)).norm()
        assert (a.flatten(1) - b).norm() < 0.04 * moved  # both round to bfloat16, in another order


def test_orthogonal_brings_singular_values_near_one():
    values = torch.linalg.svdvals(orthogonal(torch.randn(3, 16, 40)).float())
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.3


def test_embeddings_and_biases_are_not_muons():
    module = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8), nn.Conv1d(8, 8, 3))
    matrices, rest = matrices_and_rest(module)
    assert {tuple(p.shape) for p in matrices} == {(8, 8), (8, 8, 3)}
    assert len(rest) == 3
    assert len(muon(module, 1e-3)) == 2
    module[1].requires_grad_(False)
    assert len(matrices_and_rest(module)[0]) == 1
