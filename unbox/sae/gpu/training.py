"""The training of one SAE on one GPU: whole steps by `GPUStep`, captured and replayed."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from unbox.sae.gpu.captured import CapturedStep
from unbox.sae.gpu.dead_latents import DeadLatents
from unbox.sae.gpu.step import GPUStep

#: Dead latents are filled up to a multiple of this, so that a captured step goes on serving.
DEAD_UNIT = 256
#: Numbers of dead latents for which steps stay captured: it goes up and down by a few from look to look.
NUMBERS = 8


@dataclass
class GPUTraining:
    """The tensors are the trainer's own, and stay where they are: a captured step reads and writes them."""

    gpu: GPUStep
    silent: Tensor
    """(n,) rows of silence of each latent."""
    steps: Tensor
    """() steps taken, as Adam counts them."""
    sums: Tensor
    """(3,) squared error, AuxK's loss and active entries since the last line of metrics."""
    variance: float
    aux: float
    """Coefficient of AuxK."""
    kappa: int
    rate: Tensor = field(init=False)
    dead: DeadLatents = field(init=False)
    held: dict[int, tuple[DeadLatents, CapturedStep]] = field(default_factory=dict)
    """By the number of dead latents: where their ids lie, and the step that reads them there."""

    def __post_init__(self) -> None:
        self.rate = torch.zeros((), device=self.silent.device)
        self.hold(torch.zeros(0, dtype=torch.int64, device=self.silent.device))

    def step(self, x: Tensor, rows: int, rate: float) -> None:
        """A step of x (B, d), all of `rows` rows."""
        self.rate.fill_(rate)
        # Captured for whole batches alone: those at an end, or with rows left out, differ in size.
        captured = self.held[len(self.dead.ids)][1]
        (captured if x.is_cuda and len(x) == self.gpu.rows else self.take)(x, rows)

    @torch.no_grad()
    def take(self, x: Tensor, rows: int) -> None:
        """The same launch by launch, without waiting for the device: what a CUDA graph holds."""
        self.steps += 1
        of, revival = self.gpu.forward(x, 2 / (rows * self.variance)), None
        if self.aux and len(self.dead.ids):
            loss, revival = self.gpu.revive(of, self.dead, self.aux, self.kappa)
            self.sums[1] += loss
        active = self.gpu.backward_and_update(x, of, self.rate, self.steps, revival)
        self.silent += rows
        self.silent.masked_fill_(active > 0, 0)
        self.sums[0] += of.found.squares.sum()
        self.sums[2] += active.sum()

    @property
    def low_encoder(self) -> Tensor:
        """(n, d): the encoder in the precision of its product."""
        return self.gpu.low_encoder

    def copy_low(self) -> None:
        """Bring the copies in low precision up to the weights, which something else has changed."""
        self.gpu.copy_low()

    def hold(self, dead: Tensor) -> None:
        """These latents are dead from now on. How many places they are given depends on their number alone,
        so that a run that goes on sums as one that was never stopped."""
        n = len(self.silent)
        size = min(n, -(-len(dead) // DEAD_UNIT) * DEAD_UNIT)
        if size not in self.held:
            if len(self.held) == NUMBERS:
                self.held.clear()
            self.held[size] = DeadLatents(size, n, self.silent.device), CapturedStep(self.take)
        self.dead = self.held[size][0]
        self.dead.fill(dead)
