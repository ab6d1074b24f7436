"""One SAE being trained: its parameters, its optimiser, its counters, and one step."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unbox.sae import select, sparse
from unbox.sae.init import Start, directions
from unbox.sae.losses import Aux, reconstructions, squared_error
from unbox.sae.model import SAE, WEIGHTS
from unbox.sae.parallel import Team
from unbox.sae.plan import Budget, Plan, Spec
from unbox.sae.select import ALONE
from unbox.sae.variants import variant
from unbox.words import UnboxError

#: Steps between looks at which latents are dead. A look makes a GPU wait for its host.
LOOK = 16
#: Adam of the paper (arXiv 2410.22366): betas and eps.
BETAS, EPS = (0.9, 0.999), 6.25e-10


@dataclass
class Meter:
    """Sums since the last line of metrics, kept on the device; reading them changes nothing in training."""

    error: Tensor
    active: Tensor
    aux: Tensor
    rows: int = 0

    @classmethod
    def zero(cls, device: torch.device) -> "Meter":
        error, active, aux = torch.zeros(3, dtype=torch.float64, device=device)
        return cls(error, active, aux)


class Fit:
    """Trains one SAE on batches of scaled rows."""

    def __init__(
        self,
        spec: Spec,
        plan: Plan,
        budget: Budget,
        start: Start,
        device: torch.device,
        team: Team = ALONE,
    ) -> None:
        self.spec, self.plan, self.budget, self.start, self.team = spec, plan, budget, start, team
        self.variant, self.peak = variant(spec.variant), budget.peak(spec)
        self.lowp = low_precision(plan.precision, device)
        first = directions(spec.latents, len(start.centre), spec.seed, start.basis)[self._own]
        weights = {
            "W_enc": first,
            "W_dec": first.clone(),
            "b_pre": start.centre.clone(),
            "b_lat": torch.zeros(len(first)),
        }
        self.weights = {name: nn.Parameter(w.to(device)) for name, w in weights.items()}
        self.adam = torch.optim.Adam(self.weights.values(), lr=self.peak, betas=BETAS, eps=EPS, fused=True)
        self.silent = torch.zeros(len(first), dtype=torch.int64, device=device)
        self.dead = torch.zeros(0, dtype=torch.int64, device=device)
        self.dead_everywhere = 0
        self.steps = 0
        self.aux = Aux(plan.aux)
        self.meter = Meter.zero(device)

    @property
    def _own(self) -> slice:
        """The latents that this process holds."""
        latents = self.team.latents
        if self.spec.latents % latents.world or (latents.world > 1 and self.spec.variant == "multik"):
            raise UnboxError(
                f"{self.spec.title} cannot share its latents among {latents.world} processes: their number "
                "must divide by that of the processes, and multik needs the order of all winners; "
                "share rows instead"
            )
        each = self.spec.latents // latents.world
        return slice(latents.rank * each, (latents.rank + 1) * each)

    def step(self, x: Tensor, rows: int, factor: float) -> None:
        """One optimiser step. x (B, d) is this process's share of `rows` rows; `factor` is on the rate."""
        w = self.weights
        centred = x - w["b_pre"].detach()
        active, known = self._winners(centred)
        values = sparse.score(w["W_enc"], w["b_lat"], w["b_pre"], centred, active, known).relu()
        levels = self.spec.levels
        level = self.variant.level and self.variant.level(active, self.spec.k, levels, self._own.start)
        others = self.team.latents
        found = reconstructions(values, active, level, len(levels), w["W_dec"], w["b_pre"], others)
        errors = squared_error(found, x)
        (errors.mean() / (rows * self.start.variance)).backward()
        with torch.no_grad():
            if self.dead_everywhere and self.plan.aux:
                self.meter.aux += self._revive(x - found[-1], centred, rows)
            self._update(factor)
            self._count(active, values > 0, rows)
        self.meter.error += errors[-1].detach()
        self.meter.rows += len(x)

    def _winners(self, centred: Tensor) -> tuple[sparse.Active, Tensor | None]:
        """The active entries, and their pre-activations where those are exact."""
        choose = select.by_batch if self.variant.batchwise else select.by_row
        with torch.no_grad():
            weight, bias = self.weights["W_enc"].to(self.lowp), self.weights["b_lat"].to(self.lowp)
            active, pre = choose(centred.to(self.lowp), weight, bias, self.spec.k, self.team)
        return active, pre if self.lowp == torch.float32 else None

    def _revive(self, error: Tensor, centred: Tensor, rows: int) -> Tensor:
        """AuxK's gradients, added; its loss."""
        total, square = error.sum(0), error.square().sum()
        self.team.rows.sum_(total, square)
        norm = square - total.square().sum() / rows
        return self.aux.add_gradients(
            error, centred, self.dead, self.weights, norm, self.lowp, self.team.latents
        )

    def _update(self, factor: float) -> None:
        """Adam; the decoder's gradient loses its radial part before, its rows are unit again after."""
        W_dec = self.weights["W_dec"]
        gradients = {name: w.grad for name, w in self.weights.items() if w.grad is not None}
        self.team.rows.sum_(*gradients.values())
        self.team.latents.sum_(gradients["b_pre"])
        radial = torch.linalg.vecdot(gradients["W_dec"], W_dec)
        gradients["W_dec"].addcmul_(W_dec, radial[:, None], value=-1)
        if self.plan.clip is not None:
            self._clip(gradients, self.plan.clip)
        for part in self.adam.param_groups:
            part["lr"] = self.peak * factor
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        W_dec.div_(torch.linalg.vector_norm(W_dec, dim=1, keepdim=True).clamp_min(1e-12))

    def _clip(self, gradients: dict[str, Tensor], largest: float) -> None:
        """Scale the gradients of the whole SAE to a norm of at most `largest`."""
        square = torch.stack([g.square().sum() for name, g in gradients.items() if name != "b_pre"]).sum()
        self.team.latents.sum_(square)
        norm = (square + gradients["b_pre"].square().sum()).sqrt()
        torch._foreach_mul_(list(gradients.values()), (largest / norm.clamp_min(1e-30)).clamp_max(1.0))

    def _count(self, active: sparse.Active, on: Tensor, rows: int) -> None:
        """Rows of silence of each latent, and now and then who is dead. `on` (E,): which entries fired."""
        self.meter.active += on.sum()
        fired = torch.zeros(len(self.silent), device=on.device).index_add_(0, active.indices, on.float())
        heard = fired > 0
        self.team.rows.any_(heard)
        self.silent += rows
        self.silent.masked_fill_(heard, 0)
        self.steps += 1
        if self.steps % LOOK == 0:
            self.dead = (self.silent > self.budget.dead_after).nonzero().squeeze(1)
            self._count_dead()

    def _count_dead(self) -> None:
        number = torch.tensor(len(self.dead), device=self.dead.device)
        self.team.latents.sum_(number)
        self.dead_everywhere = int(number)

    def read_meter(self) -> dict[str, float]:
        """Figures since the last reading: FVU (about the start's variance), L0, AuxK's loss, dead latents."""
        sums = torch.stack([self.meter.error, self.meter.aux, self.meter.active])
        rows = torch.tensor(float(self.meter.rows), dtype=torch.float64, device=sums.device)
        self.team.rows.sum_(sums, rows)
        self.team.latents.sum_(sums[2])
        error, aux, active = (sums / rows.clamp_min(1)).tolist()
        self.meter = Meter.zero(sums.device)
        dead = float(self.dead_everywhere)
        return {"fvu": error / self.start.variance, "l0": active, "aux": aux, "dead": dead}

    def sae(self, name: str) -> SAE:
        """The SAE as it stands, for rows as they are: the scaling divides the biases and leaves W alone.

        Where latents are shared, every process must call it.
        """
        w = {key: self._whole(key, value.detach()).clone() for key, value in self.weights.items()}
        return SAE(
            W_enc=w["W_enc"],
            W_dec=w["W_dec"],
            b_pre=w["b_pre"] / self.start.scale,
            b_lat=w["b_lat"] / self.start.scale,
            k=self.spec.k,
            block=self.spec.block,
            name=name,
        )

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, of all latents; every process must call it."""
        tensors = {name: w.detach() for name, w in self.weights.items()}
        for name, weight in self.weights.items():
            for key, value in self.adam.state.get(weight, {}).items():
                tensors[f"adam.{key}.{name}"] = value
        dead = torch.zeros_like(self.silent, dtype=torch.uint8)
        dead[self.dead] = 1
        tensors |= {"silent": self.silent, "dead": dead}
        return {key: self._whole(key, t) for key, t in tensors.items()} | {"steps": torch.tensor(self.steps)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`."""
        own = {key: self._part(key, tensor) for key, tensor in state.items()}
        device = self.silent.device
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(own[name])
                keys = [key for key in own if key.startswith("adam.") and key.endswith(f".{name}")]
                if keys:
                    self.adam.state[weight] = {key.split(".")[1]: own[key].clone().to(device) for key in keys}
        self.silent = own["silent"].clone().to(device)
        self.dead = own["dead"].to(device).nonzero().squeeze(1)
        self._count_dead()
        self.steps = int(own["steps"])

    def _whole(self, key: str, tensor: Tensor) -> Tensor:
        """A tensor of all latents, from this process's part."""
        return self.team.latents.gather_rows(tensor) if _by_latent(key, tensor) else tensor

    def _part(self, key: str, tensor: Tensor) -> Tensor:
        return tensor[self._own] if _by_latent(key, tensor) else tensor


def _by_latent(key: str, tensor: Tensor) -> bool:
    """True for tensors with a row for each latent."""
    return tensor.ndim > 0 and not key.endswith("b_pre")


def low_precision(precision: str, device: torch.device) -> torch.dtype:
    """dtype of the encoder's products; `auto` is bf16 where the processor has instructions for it."""
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" or _cpu_has_bf16() else "fp32"
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]


def _cpu_has_bf16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def state_shapes(fit: Fit) -> dict[str, Any]:
    """Name -> shape of what `restore` needs."""
    n, d = fit.spec.latents, len(fit.start.centre)
    shapes: dict[str, Any] = {"W_enc": (n, d), "W_dec": (n, d), "b_pre": (d,), "b_lat": (n,)}
    for name in WEIGHTS:
        shapes |= {f"adam.exp_avg.{name}": shapes[name], f"adam.exp_avg_sq.{name}": shapes[name]}
        shapes |= {f"adam.step.{name}": ()}
    return {**shapes, "silent": (n,), "dead": (n,), "steps": ()}
