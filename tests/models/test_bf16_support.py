"""Where bfloat16 is emulated nothing is computed in it: types that torch gives are the truth."""

import pytest
import torch
from torch import nn

from unbox.models.bf16_support import bf16_products, multiplies_bf16
from unbox.recipes.shapes.conditions import halved
from unbox.training.optimizers import orthogonal

CPU = torch.device("cpu")


@pytest.fixture(params=["_is_avx512_bf16_supported", "_is_amx_tile_supported", ""])
def multiplied(request, monkeypatch) -> bool:
    """A processor with one of the instructions, or none; whether it has."""
    for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        has = check == request.param
        monkeypatch.setattr(torch.cpu, check, lambda has=has: has, raising=False)
    return bool(request.param)


class Network(nn.Module):
    """Called as a UNet is; notes in what it computes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, t, context, added_cond_kwargs, return_dict):
        self.seen = {x.dtype, context.dtype, self.layer.weight.dtype, added_cond_kwargs["text_embeds"].dtype}
        self.times = {t.dtype, added_cond_kwargs["time_ids"].dtype}
        return (self.layer(x + context),)


def test_products_are_in_bfloat16_where_it_is_multiplied(multiplied):
    half = torch.bfloat16 if multiplied else torch.float32
    assert multiplies_bf16(CPU) is multiplied
    with bf16_products(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == half
    assert orthogonal(torch.eye(4)[None]).dtype == half


def test_a_small_unet_trains_in_float32_where_bfloat16_is_emulated(multiplied):
    half = torch.bfloat16 if multiplied else torch.float32
    network, x = Network(), torch.randn(3, 4)
    added = {"text_embeds": torch.randn(3, 2), "time_ids": torch.full((3, 6), 1025.0)}
    output = halved(network)(x, torch.tensor([999] * 3), x, added_cond_kwargs=added, return_dict=False)[0]
    assert network.seen == {half}
    assert network.times == {torch.int64, torch.float32}  # 1025 has no place in eight bits
    output.float().sum().backward()
    assert network.layer.weight.grad.dtype == torch.float32
    expected = (2 * x).sum(0).expand(4, 4)  # of the sum of W (2 x) + b
    assert torch.allclose(network.layer.weight.grad, expected, atol=0.1 if multiplied else 1e-5)
