"""Memory is asked for before it is taken."""

import os

import pytest

from unbox import memory_limit
from unbox.errors import UnboxError


def test_limit_is_half_of_the_machine_unless_said_otherwise(monkeypatch):
    monkeypatch.delenv(memory_limit.VARIABLE, raising=False)
    with open("/proc/meminfo") as file:
        total = int(file.readline().split()[1]) * 1024
    assert memory_limit.memory_limit() <= total // 2 + 2**20
    with memory_limit.limited("2.5GB"):
        assert memory_limit.memory_limit() == 2_500_000_000
        memory_limit.require(2_500_000_000, "a mask")
        with pytest.raises(
            UnboxError, match=r"^a\.json: a mask of 4 x 4 would take 2\.5 GB of memory; the limit"
        ):
            memory_limit.require(2_500_000_001, "a mask of 4 x 4", "a.json")
    assert memory_limit.VARIABLE not in os.environ


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("800MB", 800_000_000), ("64 GiB", 64 * 2**30), ("1e9", 10**9)]
)
def test_sizes(text, size):
    assert memory_limit.bytes_of(text, "--memory-limit") == size


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "nan", "1e99", "9" * 5000, "1 PB"])
def test_what_is_no_size(text):
    with pytest.raises(UnboxError, match=r"^--memory-limit = .*: should be a size like"):
        memory_limit.bytes_of(text, "--memory-limit")
