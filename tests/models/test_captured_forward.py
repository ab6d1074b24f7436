"""What is recorded as a CUDA graph, and what never may be."""

import pytest
import torch
from accelerate import cpu_offload
from diffusers.hooks import apply_group_offloading

from unbox.models.captured_forward import KEPT, CapturedForward, stays


class Doubled(torch.nn.Module):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = torch.nn.Linear(3, 3), 0

    def forward(self, x: torch.Tensor, *, scale: float = 2.0) -> tuple[torch.Tensor]:
        self.calls += 1
        return (self.inner(x) * scale,)


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")  # torch's own import
def test_weights_that_are_moved_and_compiled_forwards_are_never_recorded():
    assert stays(Doubled())
    offloaded = Doubled()
    cpu_offload(offloaded, torch.device("cpu"))
    grouped = Doubled()
    apply_group_offloading(grouped, torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")
    compiled = Doubled()
    compiled.inner.compile()
    assert not any(map(stays, (offloaded, grouped, compiled)))


def test_elsewhere_than_on_a_gpu_calls_go_through_and_the_forward_comes_back():
    module = Doubled()
    captured, x = CapturedForward(module), torch.ones(2, 3)
    with captured.on("key"):
        for _ in range(3):
            assert torch.equal(module(x)[0], module.inner(x) * 2)
        with pytest.raises(TypeError):
            module(x, wrong=1)
    assert module.calls == 3
    assert "forward" not in vars(module)


@pytest.mark.gpu
@torch.no_grad()
def test_a_replay_computes_with_what_is_given_and_runs_nothing_of_python():
    module = Doubled().cuda()
    captured = CapturedForward(module)
    held = []
    for _ in range(6):
        x = torch.randn(2, 3, device="cuda")
        with captured.on("key"):
            held.append((module(x)[0], module.inner(x) * 2))
    for ours, plain in held:  # an output is the caller's own: later replays leave it alone
        assert torch.equal(ours, plain)
    assert module.calls == 2, "once as it is written, once to record it"
    for scale in range(KEPT + 3):
        for _ in range(2):
            with captured.on("key"):
                module(x, scale=float(scale + 3))
    assert sum(each is not None for each in captured._graphs.values()) <= KEPT
