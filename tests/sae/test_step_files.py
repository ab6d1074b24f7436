"""A step can be read: how many files of the package one takes, from a trace of what is executed."""

import sys
from pathlib import Path

import pytest
import torch

import unbox.sae
from tests.sae.worlds import noise
from unbox.sae import VARIANTS, Spec, train_step
from unbox.sae.plan import make_plan
from unbox.sae.training_run import TrainingRun

PACKAGE = Path(unbox.sae.__file__).parent


def files_of(call) -> set[str]:
    """The files of the package that a call executes a line of, in this thread."""
    found: set[str] = set()

    def trace(frame, event, argument):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            found.add(str(path.relative_to(PACKAGE)))

    sys.setprofile(trace)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize("name", [name for name, kind in VARIANTS.items() if not kind.learns_threshold])
def test_a_step_by_torch_is_four_files(name, monkeypatch):
    """With AuxK at work; on a CPU there are its threads and, for few active latents, its own top-k too."""
    monkeypatch.setattr(train_step.compiled_step, "AVAILABLE", False)
    plan = make_plan([Spec("", 4, 512, name)], tokens=10**6, batch_size=64)
    run = TrainingRun(plan, {"": noise()})
    (one,) = run.fits.values()
    one.dead = torch.arange(100)
    one._count_dead()
    x = torch.from_numpy(noise().array[:64])
    found = files_of(lambda: one.step(x, 64, 1.0))
    assert one.sums[1] > 0  # AuxK took part
    step = {"train_step.py", "topk.py", "sparse.py", "distributed.py"}
    assert found - {"cpu/threads.py", "cpu/topk_kernel.py"} == step
    assert all(len((PACKAGE / each).read_text().splitlines()) <= 400 for each in step)
