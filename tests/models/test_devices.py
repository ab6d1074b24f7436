import pytest
import torch

from unbox import UnboxError
from unbox.models.devices import computed_type, find_device, synchronize
from unbox.sae.distributed import local_device


@pytest.mark.parametrize("asked", [None, "cpu", "cpu:0", torch.device("cpu")])
def test_what_is_here_is_found(asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device(asked).type == "cpu"
    assert local_device(asked).type == "cpu"


@pytest.mark.parametrize(
    "asked",
    ["foo", "cudaa", "cuda", "cuda:9", "cuda:-1", "cpu:7", "meta", "mps:3", "xla", "", " cpu", 3, -1, 1.5],
)
def test_what_is_not_here_is_refused_with_what_is(asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for find in (find_device, local_device):
        with pytest.raises(UnboxError, match=r"there is no device '.*' here; there is cpu"):
            find(asked)


def test_gpus_are_counted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (find_device(), find_device("cuda"), find_device("cuda:1"), find_device(number=1)) == (
        torch.device("cuda"), torch.device("cuda"), torch.device("cuda:1"), torch.device("cuda:1"),
    )  # fmt: skip
    with pytest.raises(UnboxError, match="there is no device 'cuda:2' here; there is cpu, cuda:0, cuda:1"):
        find_device(number=2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device(None) == torch.device("cuda:1")


@pytest.mark.parametrize(
    ("here", "found"),
    [
        ((), "cpu"),
        (("mps",), "mps"),
        (("xpu",), "xpu"),
        (("xpu", "mps"), "xpu"),
        (("cuda", "xpu", "mps"), "cuda"),
    ],
)
def test_the_first_accelerator_that_is_here_is_taken(here, found, monkeypatch):
    """Simulated: of these only NVIDIA's could be tried."""
    simulate(monkeypatch, here)
    assert find_device().type == found
    assert find_device("cpu").type == "cpu"
    assert find_device(number=1) == torch.device(f"{found}:1" if found in ("cuda", "xpu") else found)
    # SAEs are fitted on an accelerator other than CUDA's only where it is named.
    assert local_device(None).type == ("cuda" if "cuda" in here else "cpu")
    if here == ("mps",):
        assert local_device("mps").type == "mps"


def simulate(monkeypatch, here):
    for kind in ("cuda", "xpu"):
        monkeypatch.setattr(getattr(torch, kind), "is_available", lambda kind=kind: kind in here)
        monkeypatch.setattr(getattr(torch, kind), "device_count", lambda kind=kind: 2 * (kind in here))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in here)


HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("device", "has_bfloat16", "types"),
    [
        ("cpu", True, {HALF: FULL, BRAIN: BRAIN, FULL: FULL}),
        ("cuda", True, {HALF: HALF, BRAIN: BRAIN, FULL: FULL}),
        ("cuda", False, {HALF: HALF, BRAIN: HALF, FULL: FULL}),
        ("xpu", False, {HALF: HALF, BRAIN: HALF, FULL: FULL}),
        ("mps", False, {HALF: HALF, BRAIN: HALF, FULL: FULL}),
    ],
)
def test_precision_follows_what_the_device_can(device, has_bfloat16, types, monkeypatch):
    for kind in (torch.cuda, torch.xpu):
        monkeypatch.setattr(kind, "is_bf16_supported", lambda **_: has_bfloat16)
    assert {stored: computed_type(stored, torch.device(device)) for stored in types} == types


def test_waiting_for_a_cpu_is_nothing():
    synchronize(torch.device("cpu"))
