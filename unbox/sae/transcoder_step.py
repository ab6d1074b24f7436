"""A training step of a transcoder, by autograd over the sparse operations: no array (rows, n) but the
encoder's pre-activations, in slices. Rows are those of source and target side by side."""

import torch
from torch import Tensor

from unbox.errors import UnboxError
from unbox.sae import differentiable, topk
from unbox.sae.distributed import Team
from unbox.sae.initialization import Start
from unbox.sae.plan import Budget, Plan, Spec
from unbox.sae.sparse import Active
from unbox.sae.topk import SINGLE
from unbox.sae.train_step import LOOK, SAETrainer
from unbox.sae.transcoder import Transcoder


class TranscoderTrainer(SAETrainer):
    """Trains one transcoder on batches (B, d_in + d_out) of scaled rows, whose two parts vary alike."""

    def __init__(
        self,
        widths: tuple[int, int],
        skip: bool,
        spec: Spec,
        plan: Plan,
        budget: Budget,
        start: Start,
        device: torch.device,
        team: Team = SINGLE,
    ) -> None:
        if team.latents.world > 1 or spec.variant not in ("topk", "batchtopk"):
            raise UnboxError(f"{spec.title}: a transcoder is topk or batchtopk, and its processes share rows")
        super().__init__(spec, plan, budget, start, device, team)
        (d, out), generator = widths, torch.Generator().manual_seed(spec.seed)
        first = torch.nn.functional.normalize(torch.randn(spec.latents, d, generator=generator), dim=1)
        weights = {
            "W_enc": first,
            "W_dec": torch.nn.functional.normalize(
                torch.randn(spec.latents, out, generator=generator), dim=1
            ),
            "b_pre": start.centre[:d].clone(),
            "b_lat": torch.zeros(spec.latents),
            "b_out": start.centre[d:].clone(),
            **({"W_skip": torch.zeros(out, d)} if skip else {}),
        }
        self.widths, self.gpu = widths, None
        self.weights = {name: weight.to(device) for name, weight in weights.items()}
        self.moments = {n: (torch.zeros_like(w), torch.zeros_like(w)) for n, w in self.weights.items()}
        self.low = torch.zeros(0, 0, device=device)

    def _copy_low(self) -> None:
        """The encoder is used as it is."""

    def step(self, x: Tensor, rows: int, factor: float) -> None:
        """One optimiser step. x (B, d_in + d_out) is this process's share of `rows` rows."""
        scale = 2 / (rows * self.start.variance)  # the target's variance is half of the rows'
        leaves = {name: weight.detach().requires_grad_() for name, weight in self.weights.items()}
        source, target = x.split(list(self.widths), dim=1)
        found, codes, active = self._forward(source, leaves, rows)
        error = found - target
        squares = error.square().sum()
        gradients = dict(
            zip(leaves, torch.autograd.grad(squares * scale, list(leaves.values())), strict=True)
        )
        with torch.no_grad():
            self._add_auxk(gradients, error.detach(), source - self.weights["b_pre"], rows)
            direction = self.weights["W_dec"]
            gradients["W_dec"] -= torch.linalg.vecdot(gradients["W_dec"], direction)[:, None] * direction
            self._together(gradients)
            self.clock += 1
            for name, gradient in gradients.items():
                self._adam(name, gradient, slice(None), self.peak * factor)
            direction.div_(torch.linalg.vector_norm(direction, dim=1, keepdim=True).clamp_min(1e-12))
            on = (codes.detach() > 0).float()
            fired = torch.zeros(self.spec.latents, device=x.device).index_add_(0, active.indices, on) > 0
            self._count(fired, rows)
            self.sums[0] += squares.detach() * 2
            self.sums[2] += on.sum()
            self.rows, self.steps = self.rows + len(x), self.steps + 1
            if self.steps % LOOK == 0:
                self._look_for_dead()

    def _forward(self, source: Tensor, w: dict[str, Tensor], rows: int) -> tuple[Tensor, Tensor, Active]:
        """The target found (B, d_out) of a share of `rows` rows, the codes (E,), and which entries."""
        centred = source - w["b_pre"]
        given = (centred, w["W_enc"], w["b_lat"], self.spec.k, self.team)
        with torch.no_grad():
            active, pre = topk.by_batch(*given, rows) if self.variant.batchwise else topk.by_row(*given)
        codes = differentiable.pre_activations(centred, w["W_enc"], w["b_lat"], pre, active).relu()
        found = differentiable.mix(codes, active, w["W_dec"]) + w["b_out"]
        return (found + centred @ w["W_skip"].T if "W_skip" in w else found), codes, active

    @torch.no_grad()
    def held_out(self, x: Tensor, whole: int) -> dict[str, float | list[int]]:
        """FVU of the target and L0 on this process's share x of `whole` scaled rows, as in training."""
        source, target = x.split(list(self.widths), dim=1)
        found, codes, _ = self._forward(source, self.weights, whole)
        sums = torch.stack(
            [
                (found - target).double().square().sum(),
                target.double().square().sum(),
                (codes > 0).double().sum(),
            ]
        )
        total = target.double().sum(0)
        self.team.rows.sum_(sums, total)
        error, square, active = sums.tolist()
        variance = square - float(total.square().sum()) / whole
        return {"held_out_fvu": error / variance if variance > 0 else 0.0, "held_out_l0": active / whole}

    def transcoder(self, name: str, source: str, target: str, factors: tuple[float, float]) -> Transcoder:
        """The transcoder as it stands, for rows as they are: `factors` are those of the two sides' rows. All
        scales are numbers, so the same latents are the largest; the decoder's rows are unit vectors."""
        of_source, of_target = (factor * self.start.scale for factor in factors)
        scales = {
            "W_enc": of_source / of_target, "W_dec": 1.0, "b_pre": 1 / of_source, "b_lat": 1 / of_target,
            "b_out": 1 / of_target, "W_skip": of_source / of_target,
        }  # fmt: skip
        weights = {key: weight * scales[key] for key, weight in self.weights.items()}
        return Transcoder(weights, self.spec.k, source, target, name)
