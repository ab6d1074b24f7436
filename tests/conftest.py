"""What every test starts from: no network, the same examples on every run, nothing drawn on a screen."""

import os
import time
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: a thread each, or OpenMP's spinning threads take them from one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# Time limits of single examples say more about the machine than about the code.
settings.register_profile("unbox", deadline=None, max_examples=40, derandomize=bool(os.environ.get("CI")))
settings.register_profile("many", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unbox"))

#: Minutes after which no further slow test is begun; not set: all are run.
SLOW_MINUTES = float(os.environ.get("UNBOX_SLOW_MINUTES", "inf"))
STARTED = time.monotonic()


@pytest.fixture
def own_accelerator() -> Iterator[None]:
    """Accelerate keeps one state a process, whose precision cannot be changed; a command has a process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one module stay together in a worker, and so do all that ask the explorer that is served: it
    takes as long to start as a hundred tests."""
    for item in items:
        served = "url" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("explorer" if served else item.nodeid.split("::")[0]))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out, and say so, tests of a GPU where there is none, and slow ones when their time is over."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no GPU here")
    if item.get_closest_marker("slow") and time.monotonic() - STARTED > 60 * SLOW_MINUTES:
        pytest.skip(f"the {SLOW_MINUTES:g} minutes for slow tests are over (UNBOX_SLOW_MINUTES)")
