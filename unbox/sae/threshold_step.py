"""Training steps of SAEs that learn a threshold for each latent: JumpReLU and Gated.

How many latents are active varies, and is large at first, so these steps are dense, in slices of rows, with
autograd of `objective`: about ten arrays of (rows of a slice, n) in float32 at a time, of `SLICE` numbers
each at most, and gradients of the size of the weights. Both end as an SAE with a threshold for each latent.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from unbox.errors import UnboxError
from unbox.sae import sparse, topk
from unbox.sae.distributed import Team
from unbox.sae.initialization import Start
from unbox.sae.model import SAE
from unbox.sae.objective import decode, gated, jumprelu, pre_activations
from unbox.sae.plan import SLICE, Budget, Plan, Spec
from unbox.sae.topk import SINGLE
from unbox.sae.train_step import LOOK, SAETrainer

#: Numbers of an array (rows of a slice, n) elsewhere than on a CPU, where they are `SLICE`.
SLICE_ELSEWHERE = 1 << 26
#: JumpReLU: the pseudo-gradients' bandwidth and the first threshold, for rows of root mean square 1, and the
#: coefficient of (L0 / k - 1)^2.
BANDWIDTH, THRESHOLD, SPARSITY = 1.0, 0.3, 0.3
#: Gated: the first coefficient of the gates' L1, and how fast it follows the number of active latents.
FIRST_L1, L1_RATE = 0.1, 0.03


class ThresholdTrainer(SAETrainer):
    """What the two have in common: a step in slices, by autograd."""

    extra: ClassVar[Mapping[str, float]]
    """Weights (n,) beside those of every SAE, and what they begin at."""

    def __init__(
        self, spec: Spec, plan: Plan, budget: Budget, start: Start, device: torch.device, team: Team = SINGLE
    ) -> None:
        if team.latents.world > 1:
            raise UnboxError(
                f"{spec.title}: {spec.variant} cannot share its latents among processes; share rows"
            )
        super().__init__(spec, plan, budget, start, device, team)
        for name, first in self.extra.items():
            self.weights[name] = torch.full((spec.latents,), first, device=device)
            self.moments[name] = (torch.zeros_like(self.weights[name]), torch.zeros_like(self.weights[name]))
        self.sparsity = torch.tensor(FIRST_L1, device=device)

    def step(self, x: Tensor, rows: int, factor: float) -> None:
        """One optimiser step. x (B, d) is this process's share of `rows` rows; `factor` is on the rate."""
        scale, rate = 1 / (rows * self.start.variance), self.peak * factor
        leaves = {name: weight.detach().requires_grad_() for name, weight in self.weights.items()}
        on = torch.zeros(self.spec.latents, dtype=torch.float64, device=x.device)
        slices = x.split(max(1, (SLICE if x.device.type == "cpu" else SLICE_ELSEWHERE) // self.spec.latents))
        l0 = self._mean_active(slices, rows)
        errors = x.new_empty(x.shape if self._reviving else (0, x.shape[1]))
        for number, part in enumerate(slices):
            loss, error, codes = self._loss(part, leaves, l0, scale, rows)
            loss.backward()
            self.sums[0] += error.detach().square().sum()
            on += (codes.detach() > 0).sum(0)
            if self._reviving:
                errors[number * len(slices[0]) :][: len(part)] = error.detach()
        with torch.no_grad():
            gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
            self._add_auxk(gradients, errors, x - self.weights["b_pre"], rows)
            decoder, direction = gradients["W_dec"], self.weights["W_dec"]
            decoder -= torch.linalg.vecdot(decoder, direction)[:, None] * direction
            self._together(gradients)
            self.clock += 1
            for name, gradient in gradients.items():
                self._adam(name, gradient, slice(None), rate)
            direction.div_(torch.linalg.vector_norm(direction, dim=1, keepdim=True).clamp_min(1e-12))
            self.sums[2] += on.sum()
            self.rows += len(x)
            self.team.rows.sum_(on)
            self._count(on > 0, rows)
            self._adapt(on.sum() / rows)
            self.steps += 1
            if self.steps % LOOK == 0:
                self._look_for_dead()

    def _mean_active(self, slices: tuple[Tensor, ...], rows: int) -> Tensor:
        """What the loss of a slice must know of the whole batch: nothing."""
        return self.sums.new_zeros(())

    def _loss(
        self, x: Tensor, weights: dict[str, Tensor], l0: Tensor, scale: float, rows: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of a slice: its part of the loss, x^ - x (B, d), and the codes (B, n)."""
        raise NotImplementedError

    def _adapt(self, l0: Tensor) -> None:
        """What follows the number of active latents."""

    def thresholded(self) -> tuple[Tensor, Tensor, Tensor]:
        """(n, d), (n,), (n,): encoder, bias and thresholds of the SAE that gives the same codes."""
        raise NotImplementedError

    def _topk(self, centred: Tensor, rows: int) -> tuple[sparse.Active, Tensor | None]:
        W_enc, b_lat, threshold = self.thresholded()
        return topk.above(centred, W_enc, b_lat, threshold)

    def sae(self, name: str, owner: int = 0) -> SAE | None:
        """The SAE as it stands, for rows as they are, with its thresholds."""
        (W_enc, b_lat, threshold), scale = self.thresholded(), self.start.scale
        W_dec, b_pre = self.weights["W_dec"].clone(), self.weights["b_pre"] / scale
        return SAE(
            W_enc.clone(), W_dec, b_pre, b_lat / scale, self.spec.k, self.spec.block, name, threshold / scale
        )

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), "sparsity": self.sparsity}

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        self.sparsity.copy_(state["sparsity"])

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Begin with weights and `threshold` (n,) of all latents, in scaled units: to the same codes."""
        super().start_from({**weights, **self._begin_at(weights["b_lat"], weights["threshold"])})

    def _begin_at(self, b_lat: Tensor, threshold: Tensor) -> dict[str, Tensor]:
        """The weights of `extra` by which latents are active over a threshold (n,)."""
        raise NotImplementedError


class JumpReLUTrainer(ThresholdTrainer):
    """JumpReLU (arXiv 2407.14435), its L0 drawn to k by (L0 / k - 1)^2."""

    extra: ClassVar[Mapping[str, float]] = {"log_threshold": 0.0}

    def __init__(
        self, spec: Spec, plan: Plan, budget: Budget, start: Start, device: torch.device, team: Team = SINGLE
    ) -> None:
        super().__init__(spec, plan, budget, start, device, team)
        unit = (start.variance / len(start.centre)) ** 0.5  # 1 where rows are scaled
        self.bandwidth = BANDWIDTH * unit
        self.weights["log_threshold"].fill_(THRESHOLD * unit).log_()

    @torch.no_grad()
    def _mean_active(self, slices: tuple[Tensor, ...], rows: int) -> Tensor:
        threshold = self.weights["log_threshold"].exp()
        active = self.sums.new_zeros(())
        for part in slices:
            active += (pre_activations(part, self.weights) > threshold).sum()
        self.team.rows.sum_(active)
        return active / rows

    def _loss(
        self, x: Tensor, weights: dict[str, Tensor], l0: Tensor, scale: float, rows: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        codes, on = jumprelu(pre_activations(x, weights), weights["log_threshold"].exp(), self.bandwidth)
        error = decode(codes, weights) - x
        slope = (
            2 * SPARSITY * (l0 / self.spec.k - 1) / (self.spec.k * rows)
        )  # of the square, at the batch's L0
        return error.square().sum() * scale + on.sum() * slope.to(x), error, codes

    def thresholded(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.weights["W_enc"], self.weights["b_lat"], self.weights["log_threshold"].exp()

    def _begin_at(self, b_lat: Tensor, threshold: Tensor) -> dict[str, Tensor]:
        if not_over := int((threshold <= 0).sum()):
            raise UnboxError(
                f"{self.spec.title}: jumprelu learns the logarithm of each threshold, and {not_over:,} of "
                "the SAE to begin from are not over 0: begin with --variant gated, or sae.with_threshold(...)"
            )
        return {"log_threshold": threshold.log()}


class GatedTrainer(ThresholdTrainer):
    """Gated (arXiv 2404.16014). The coefficient of the gates' L1 follows the number of active latents to k,
    which the paper's does not."""

    extra: ClassVar[Mapping[str, float]] = {"r_mag": 0.0, "b_gate": 0.0}

    def _loss(
        self, x: Tensor, weights: dict[str, Tensor], l0: Tensor, scale: float, rows: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        codes, gate = gated(x, weights)
        frozen = {name: weight.detach() for name, weight in weights.items()}
        error = decode(codes, weights) - x
        aside = (decode(gate.relu(), frozen) - x).square().sum()
        l1 = self.sparsity * gate.relu().sum() / (rows * self.start.variance**0.5)
        return (error.square().sum() + aside) * scale + l1, error, codes

    def _adapt(self, l0: Tensor) -> None:
        self.sparsity *= (L1_RATE * (l0 / self.spec.k - 1).clamp(-1, 1)).exp().to(self.sparsity)

    def thresholded(self) -> tuple[Tensor, Tensor, Tensor]:
        w, scale = self.weights, self.weights["r_mag"].exp()
        return w["W_enc"] * scale[:, None], w["b_lat"], w["b_lat"] - scale * w["b_gate"]

    def _begin_at(self, b_lat: Tensor, threshold: Tensor) -> dict[str, Tensor]:
        return {"r_mag": torch.zeros_like(threshold), "b_gate": b_lat - threshold}


#: Variant -> the trainer that takes its step; `SAETrainer` takes that of every other.
THRESHOLD_TRAINERS: dict[str, type[ThresholdTrainer]] = {"jumprelu": JumpReLUTrainer, "gated": GatedTrainer}
