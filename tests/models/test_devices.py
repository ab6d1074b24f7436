import pytest
import torch

from unbox import UnboxError
from unbox.models.devices import find_device
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
