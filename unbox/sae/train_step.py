"""One SAE being trained: its parameters, its optimiser, its counters, and one step."""

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unbox.errors import UnboxError
from unbox.sae import sparse, topk
from unbox.sae.cpu import compiled_step, dense_step
from unbox.sae.cpu.threads import worker_threads
from unbox.sae.distributed import Team
from unbox.sae.gpu import kernels_run_on
from unbox.sae.initialization import Start, directions
from unbox.sae.learning_rate import peak
from unbox.sae.model import SAE
from unbox.sae.plan import Budget, Plan, Spec
from unbox.sae.precision import low_precision
from unbox.sae.sae_folder import WEIGHTS
from unbox.sae.sparse import AuxK, SparseGradients, forward_backward
from unbox.sae.topk import SINGLE
from unbox.sae.variants import variant

if TYPE_CHECKING:
    from unbox.sae.gpu.training import GPUTraining

#: Steps between looks at which latents are dead. A look makes a GPU wait for its host.
LOOK = 16
#: Adam of the paper (arXiv 2410.22366): betas and eps.
BETAS, EPS = (0.9, 0.999), 6.25e-10

_fused_adam = partial(
    torch._fused_adam_, beta1=BETAS[0], beta2=BETAS[1], eps=EPS, weight_decay=0, amsgrad=False, maximize=False
)
MOMENTS = ("exp_avg", "exp_avg_sq")
#: Latents whose gradients are made and used at a time on CPU, so that they are never whole: 4 MB of each.
CHUNK = 1 << 20


class SAETrainer:
    """Trains one SAE on batches of scaled rows."""

    def __init__(
        self, spec: Spec, plan: Plan, budget: Budget, start: Start, device: torch.device, team: Team = SINGLE
    ) -> None:
        self.spec, self.plan, self.budget, self.start, self.team = spec, plan, budget, start, team
        self.variant, self.peak = variant(spec.variant), peak(budget, spec)
        self.lowp = low_precision(plan.precision, device)
        first = directions(spec.latents, len(start.centre), spec.seed, start.basis)[self.latents]
        weights = {
            "W_enc": first,
            "W_dec": first.clone(),
            "b_pre": start.centre.clone(),
            "b_lat": torch.zeros(len(first)),
        }
        self.weights = {name: compiled_step.in_large_pages(w.to(device)) for name, w in weights.items()}

        def zeros(like: Tensor) -> Tensor:
            return compiled_step.in_large_pages(torch.zeros_like(like))

        self.moments = {name: (zeros(w), zeros(w)) for name, w in self.weights.items()}
        n, d = first.shape
        self.silent = torch.zeros(len(first), dtype=torch.int64, device=device)
        self.dead = torch.zeros(0, dtype=torch.int64, device=device)
        self.dead_everywhere = 0
        self.steps = 0
        self.clock = torch.zeros((), device=device)  # the steps, as Adam wants them
        self.aux = AuxK(plan.aux, plan.aux_k)
        #: With a frozen encoder, what active pre-activations are over, () or (n,); None: the variant chooses.
        self.threshold: Tensor | None = None
        # Sums since the last line of metrics: squared error, AuxK's loss, active entries; and the rows.
        self.sums, self.rows = torch.zeros(3, dtype=torch.float64, device=device), 0
        self.gpu = self._on_gpu()
        extra = compiled_step.EXTRA
        self.low = torch.zeros(n if self.gpu is None else 0, d + extra, dtype=self.lowp, device=device)
        self._copy_low()

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Begin with these weights of all latents, in scaled units, in place of random directions; a
        `threshold` (n,) among them is for trainers that learn one."""
        for name, weight in self.weights.items():
            weight.copy_(weights[name][self.latents] if by_latent(name, weight) else weights[name])
        self._copy_low()

    @property
    def latents(self) -> slice:
        """The range of the SAE's latents that is this process's."""
        latents = self.team.latents
        if self.spec.latents % latents.world or (latents.world > 1 and self.spec.variant == "multik"):
            raise UnboxError(
                f"{self.spec.title} cannot share its latents among {latents.world} processes: their number "
                "must divide by that of the processes, and multik needs the order of all winners; "
                "share rows instead"
            )
        each = self.spec.latents // latents.world
        return slice(latents.rank * each, (latents.rank + 1) * each)

    @property
    def low_encoder(self) -> Tensor:
        """(n, d): the encoder in the precision of its product."""
        return self.gpu.low_encoder if self.gpu is not None else self.low[:, : self.weights["W_enc"].shape[1]]

    def _copy_low(self) -> None:
        if self.gpu is not None:
            self.gpu.copy_low()
            return
        d = self.weights["W_enc"].shape[1]
        self.low[:, :d] = self.weights["W_enc"]
        self.low[:, d] = self.weights["b_lat"]

    @torch.no_grad()
    def step(self, x: Tensor, rows: int, factor: float) -> None:
        """One optimiser step. x (B, d) is this process's share of `rows` rows; `factor` is on the rate."""
        scale, rate = 1 / (rows * self.start.variance), self.peak * factor
        if self.gpu is not None:
            self.gpu.step(x, rows, rate)
        else:
            self.clock += 1
            error, fired, active = (self._compiled if self.native else self._plain)(x, rows, scale, rate)
            self._count(fired, rows)
            self.sums[0] += error
            self.sums[2] += active
        self.rows += len(x)
        self.steps += 1
        if self.steps % LOOK == 0:
            self._look_for_dead()

    def _on_gpu(self) -> "GPUTraining | None":
        """The steps by Triton's kernels, where there is a GPU, Triton, and a kind of SAE that they know."""
        if not (self._plain_topk and kernels_run_on(self.silent.device)):
            return None
        from unbox.sae.gpu.step import GPUStep, is_dense
        from unbox.sae.gpu.training import GPUTraining

        (n, d), k, rows = self.weights["W_enc"].shape, self.spec.k, self.budget.batch_size
        dense = self.lowp != torch.float32 and is_dense(rows, d, n, k)
        gpu = GPUStep(self.weights, self.moments, k, rows, BETAS, EPS, self.lowp, dense)
        kappa = self.plan.kappa(d)
        return GPUTraining(gpu, self.silent, self.clock, self.sums, self.start.variance, self.plan.aux, kappa)

    @property
    def _plain_topk(self) -> bool:
        """Whether it is what the compiled loops and the kernels of a GPU know: TopK, in one process."""
        kind = self.variant
        other = kind.batchwise or kind.learns_threshold or self.spec.levels or self.plan.clip_norm is not None
        return not (other or self.plan.freeze_encoder) and self.team.everyone.world == 1

    @property
    def _reviving(self) -> bool:
        """Whether AuxK has a part in the next step."""
        return bool(self.dead_everywhere and self.plan.aux) and not self.plan.freeze_encoder

    @property
    def native(self) -> bool:
        """Whether a step is taken by the compiled loops."""
        return compiled_step.AVAILABLE and self._plain_topk and self.silent.device.type == "cpu"

    @property
    def dense(self) -> bool:
        """Whether the compiled loops leave the codes' products to dense ones in bf16."""
        (n, d), rows = self.weights["W_enc"].shape, self.budget.batch_size
        return self.lowp == torch.bfloat16 and dense_step.is_dense(rows, d, n, self.spec.k)

    def _compiled(
        self, x: Tensor, rows: int, scale: float, rate: float
    ) -> tuple[float | Tensor, Tensor, int | Tensor]:
        """A step by `compiled_step` or `dense_step`: the squared error, what fired, the active entries."""
        w, aux, by = self.weights, self._reviving, dense_step if self.dense else compiled_step
        with worker_threads():
            run = by.forward(x, w, self.low, self.spec.k, 2 * scale)
        revival = self._revive(rows, *compiled_step.auxk_inputs(run, x, w["b_pre"])) if aux else None
        with worker_threads():
            adam = compiled_step.adam_numbers(*BETAS, EPS, rate, int(self.clock))
            dead = self.dead if aux else None
            gradient, fired = by.backward_and_update(run, w, self.moments, self.low, adam, dead, revival)
            self._adam("b_pre", gradient, slice(None), rate)
            return run.squares, fired, (run.values > 0).sum()

    def _plain(
        self, x: Tensor, rows: int, scale: float, rate: float
    ) -> tuple[float | Tensor, Tensor, int | Tensor]:
        """The same by torch's operations, for every case."""
        levels, latents = self.spec.levels, self.team.latents
        centred = x - self.weights["b_pre"]
        active, known = self._topk(centred, rows)
        level = self.variant.level and self.variant.level(active, self.spec.k, levels, self.latents.start)
        found = forward_backward(
            centred, active, self.weights, scale, level, len(levels) or 1, known, latents
        )
        revival = self._revive(rows, found.error, centred) if self._reviving else None
        self._update(found, centred, revival, rate)
        on = found.values > 0
        fired = torch.zeros(len(self.silent), device=on.device)
        return (found.squares[-1], fired.index_add_(0, found.active.indices, on.float()) > 0, on.sum())

    def _topk(self, centred: Tensor, rows: int) -> tuple[sparse.Active, Tensor | None]:
        """The active entries of a share of `rows` rows, and their pre-activations where those are exact."""
        if self.threshold is not None:
            w = self.weights
            return topk.above(centred, w["W_enc"], w["b_lat"], self.threshold.to(centred))
        given = (centred.to(self.lowp), self.low_encoder, self.weights["b_lat"].to(self.lowp), self.spec.k)
        batchwise = self.variant.batchwise
        active, pre = topk.by_batch(*given, self.team, rows) if batchwise else topk.by_row(*given, self.team)
        return active, pre if self.lowp == torch.float32 else None

    def _revive(
        self, rows: int, error: Tensor, centred: Tensor, sums: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """AuxK's gradients by the dead latents' W_enc, W_dec and b_lat; its loss is noted. error (B, d) is
        x^ - x; `sums`: of it (d,) and of its squares, where known."""
        total, square = sums or (error.sum(0), error.square().sum())
        self.team.rows.sum_(total, square)
        norm = square - total.square().sum() / rows
        loss, d_encoder, d_decoder, d_bias = self.aux.gradients(
            error, centred, self.dead, self.weights, norm, self.lowp, self.team.latents, self.dead_everywhere
        )
        self.sums[1] += loss
        return d_encoder, d_decoder, d_bias

    def _add_auxk(self, gradients: dict[str, Tensor], error: Tensor, centred: Tensor, rows: int) -> None:
        """Add AuxK's gradients to whole ones, where latents are dead. error = x^ - x."""
        if not self._reviving:
            return
        d_encoder, d_decoder, d_bias = self._revive(rows, error, centred)
        for name, part in (("W_enc", d_encoder), ("W_dec", d_decoder), ("b_lat", d_bias)):
            gradients[name].index_add_(0, self.dead, part)
        gradients["b_pre"] -= d_bias @ self.weights["W_enc"][self.dead]

    def _update(
        self, found: SparseGradients, centred: Tensor, revival: tuple[Tensor, ...] | None, rate: float
    ) -> None:
        """Adam, by ranges of latents; the decoder's gradient loses its radial part before, its rows are unit
        again after. `revival`: AuxK's gradients by the dead latents, of `_revive`."""
        w, first, frozen = self.weights, self.team.latents.rank == 0, self.plan.freeze_encoder
        d_lat, radial = found.b_lat(), found.radial()
        d_pre = found.b_pre(w["W_enc"], d_lat, decoded=first)
        if revival is not None:
            d_encoder, d_decoder, d_bias = revival
            d_pre -= d_bias @ w["W_enc"][self.dead]
            d_lat.index_add_(0, self.dead, d_bias)
            radial.index_add_(0, self.dead, torch.linalg.vecdot(d_decoder, w["W_dec"][self.dead]))
        for part in (parts := self._parts()):
            gradients = {} if frozen else {"W_enc": found.W_enc(centred, part), "b_lat": d_lat[part]}
            gradients["W_dec"] = found.W_dec(part)
            if revival is not None:
                bounds = torch.tensor([part.start, part.stop])
                dead = (
                    slice(*torch.searchsorted(self.dead, bounds).tolist()) if len(parts) > 1 else slice(None)
                )
                gradients["W_enc"].index_add_(0, self.dead[dead] - part.start, d_encoder[dead])
                gradients["W_dec"].index_add_(0, self.dead[dead] - part.start, d_decoder[dead])
            gradients["W_dec"].addcmul_(w["W_dec"][part], radial[part, None], value=-1)
            if part.start == 0 and not frozen:
                gradients["b_pre"] = d_pre
            self._together(gradients)
            for name, gradient in gradients.items():
                self._adam(name, gradient, part, rate)
            W_dec = w["W_dec"][part]
            W_dec.div_(torch.linalg.vector_norm(W_dec, dim=1, keepdim=True).clamp_min(1e-12))
            self.low_encoder[part].copy_(w["W_enc"][part])

    def _parts(self) -> list[slice]:
        """Ranges of latents to update one after the other; one where the gradient is looked at whole."""
        n, d = self.weights["W_enc"].shape
        size = n
        if self.silent.device.type == "cpu" and self.team.everyone.world == 1 and self.plan.clip_norm is None:
            size = max(1, CHUNK // d)
        return [slice(at, min(n, at + size)) for at in range(0, n, size)]

    def _together(self, gradients: dict[str, Tensor]) -> None:
        """Sum the gradients over processes, and clip the whole SAE's norm if the plan says so."""
        self.team.rows.sum_(*gradients.values())
        if "b_pre" in gradients:
            self.team.latents.sum_(gradients["b_pre"])
        if self.plan.clip_norm is not None:
            square = torch.stack([g.square().sum() for name, g in gradients.items() if name != "b_pre"]).sum()
            self.team.latents.sum_(square)
            norm = (square + gradients["b_pre"].square().sum() if "b_pre" in gradients else square).sqrt()
            torch._foreach_mul_(
                list(gradients.values()), (self.plan.clip_norm / norm.clamp_min(1e-30)).clamp_max(1.0)
            )

    def _adam(self, name: str, gradient: Tensor, part: slice, rate: float) -> None:
        """Adam's step of a range of one weight."""
        whole = (self.weights[name], *self.moments[name])
        weight, mean, square = whole if name == "b_pre" else (t[part] for t in whole)
        _fused_adam([weight], [gradient], [mean], [square], [], [self.clock], lr=rate)

    def _count(self, fired: Tensor, rows: int) -> None:
        """Rows of silence of each latent. `fired` (n,) bool: which fired."""
        self.team.rows.any_(fired)
        self.silent += rows
        self.silent.masked_fill_(fired, 0)

    def _look_for_dead(self) -> None:
        """Who is dead by now. Makes a GPU wait for its host."""
        self.dead = (self.silent > self.budget.dead_after).nonzero().squeeze(1)
        self._count_dead()

    def _count_dead(self) -> None:
        number = torch.tensor(len(self.dead), device=self.dead.device)
        self.team.latents.sum_(number)
        self.dead_everywhere = int(number)
        if self.gpu is not None:
            self.gpu.hold(self.dead)

    def read_meter(self) -> dict[str, float]:
        """Figures since the last reading: FVU (about the start's variance), L0, AuxK's loss, dead latents."""
        sums, rows = (
            self.sums.clone(),
            torch.tensor(float(self.rows), dtype=torch.float64, device=self.sums.device),
        )
        self.team.rows.sum_(sums, rows)
        self.team.latents.sum_(sums[2])
        error, aux, active = (sums / rows.clamp_min(1)).tolist()
        self.sums.zero_()
        self.rows = 0
        return {
            "fvu": error / self.start.variance, "l0": active, "aux": aux, "dead": float(self.dead_everywhere),
        }  # fmt: skip

    def sae(self, name: str, owner: int = 0) -> SAE | None:
        """The SAE as it stands, for rows as they are: the scaling divides the biases and leaves W alone.

        Where latents are shared, every process must call it; `owner` alone is given the whole, on its CPU.
        """
        scale, biases = self.start.scale, ("b_pre", "b_lat")
        own = {k: w / scale if k in biases else w.clone() for k, w in self.weights.items()}
        if self.threshold is not None:
            own["threshold"] = self.threshold
        if (latents := self.team.latents).world > 1:
            parts = ((k, own.pop(k)) for k in list(own))
            found = {k: latents.whole_on(owner, w) if by_latent(k, w) else w.cpu() for k, w in parts}
            if latents.rank != owner:
                return None
            own = {k: w for k, w in found.items() if w is not None}
        W_enc, W_dec, b_pre, b_lat = (own[key] for key in WEIGHTS)
        spec = self.spec
        return SAE(W_enc, W_dec, b_pre, b_lat, spec.k, spec.block, name, own.get("threshold"))

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on: this process's part, its own tensors where it can be."""
        tensors = dict(self.weights)
        for name, moments in self.moments.items():
            tensors |= {f"adam.{key}.{name}": t for key, t in zip(MOMENTS, moments, strict=True)}
        dead = torch.zeros_like(self.silent, dtype=torch.uint8)
        dead[self.dead] = 1
        if self.plan.freeze_encoder:  # how many thresholds: none, one, or one for each latent
            none = torch.zeros(0, dtype=torch.float64, device=dead.device)
            given = none if self.threshold is None else self.threshold.reshape(-1)
            each = torch.zeros(len(dead), dtype=torch.float64, device=dead.device)
            each[:] = given if len(given) else 0.0
            kind = 0 if self.threshold is None else 1 + self.threshold.ndim
            tensors |= {"threshold": each, "thresholds": torch.tensor(kind)}
        return {**tensors, "silent": self.silent, "dead": dead, "steps": torch.tensor(self.steps)}

    def replicated(self) -> dict[str, Tensor]:
        """The tensors of `state` that every process should hold alike: all, or those not of its latents."""
        shared = self.team.latents.world > 1
        names = {*self.weights, "silent"}
        found = {k: t for k, t in self.state().items() if k in names or k.startswith("adam.")}
        return {k: t for k, t in found.items() if not (shared and by_latent(k, t))}

    def broadcast(self) -> None:
        """Give every process the first one's numbers."""
        self.team.everyone.broadcast_(*self.replicated().values())
        self._copy_low()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`, given this process's part."""
        part, device = state, self.silent.device
        for name, weight in self.weights.items():
            weight.copy_(part[name])
            for key, moment in zip(MOMENTS, self.moments[name], strict=True):
                moment.copy_(part[f"adam.{key}.{name}"])
        self._copy_low()
        if self.plan.freeze_encoder and (kind := int(part["thresholds"])):
            each = part["threshold"].to(device)
            self.threshold = each if kind > 1 else each[0]
        self.silent.copy_(part["silent"])
        self.dead = part["dead"].to(device).nonzero().squeeze(1)
        self._count_dead()
        self.steps = int(part["steps"])
        self.clock.fill_(self.steps)


def by_latent(key: str, tensor: Tensor) -> bool:
    """True for tensors of a state with a row for each latent."""
    return tensor.ndim > 0 and not key.endswith("b_pre")
