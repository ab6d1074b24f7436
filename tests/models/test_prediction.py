import pytest
import torch

from unbox.errors import UnboxError
from unbox.models.prediction import KINDS, from_x0, to_x0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("abar", [0.0047, 0.426, 0.99])
def test_there_and_back(kind, abar):
    x0, eps = torch.randn(2, 2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noisy = abar**0.5 * x0 + (1 - abar) ** 0.5 * eps
    torch.testing.assert_close(to_x0(from_x0(x0, noisy, abar, kind), noisy, abar, kind), x0)
    torch.testing.assert_close(from_x0(x0, noisy, abar, "epsilon"), eps)
    torch.testing.assert_close(
        from_x0(x0, noisy, abar, "v_prediction"), abar**0.5 * eps - (1 - abar) ** 0.5 * x0
    )


def test_at_pure_noise_only_v_tells_x0():
    v = torch.randn(3, 4)
    torch.testing.assert_close(to_x0(v, torch.randn(3, 4), 0.0, "v_prediction"), -v)


def test_unknown_kind():
    with pytest.raises(UnboxError, match="'flow' is not one of epsilon, sample, v_prediction"):
        to_x0(torch.ones(1), torch.ones(1), 0.5, "flow")
