"""A toy training, run as a script by the tests of stops and of several processes: toy.py FOLDER STEPS [STOP].

The first process sends itself SIGTERM in step STOP."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unbox.stopping import Stopped, stopping
from unbox.training.loop import Step, TrainingPlan, Turn, train
from unbox.training.optimizers import muon
from unbox.training.roles import Role


def toy_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(16, 1))


def run(folder: Path, steps: int, save_seconds: float = 300.0, stop: int = -1) -> nn.Module:
    """Fit the mean of random pictures; the network as it ends."""
    network, accelerator = toy_network(), Accelerator(cpu=True)
    role = Role(network, muon, 1e-2, ema=0.9)

    def loss(step: Step) -> Tensor:
        if step.number == stop and accelerator.is_main_process:
            os.kill(os.getpid(), signal.SIGTERM)
        x = torch.randn(8, 2, 4, 4, generator=step.generator)
        return (role.model(x)[:, 0] - x.mean((1, 2, 3))).square().mean()

    plan = TrainingPlan(steps, warmup=3, save_seconds=save_seconds)
    train({"toy": role}, [Turn("toy", loss)], plan, folder, accelerator)
    return network


if __name__ == "__main__":
    torch.set_num_threads(1)
    with suppress(Stopped), stopping():
        run(Path(sys.argv[1]), int(sys.argv[2]), 1e-6, int(sys.argv[3]) if len(sys.argv) > 3 else -1)
