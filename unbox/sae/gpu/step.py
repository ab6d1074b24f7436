"""A training step of one top-k SAE on one GPU: forward, top-k, loss, backward, Adam.

The products are cuBLAS's, the rest are the kernels of `kernels`. Where codes are sparse no gradient is formed
whole: the program that sums a latent's entries takes Adam's step with the sum. Where they are dense (many
active of few latents) products in low precision are faster, and `is_dense` says so by arithmetic.
"""

from dataclasses import dataclass, field
from functools import cached_property
from math import log

import torch
import triton
from torch import Tensor

from unbox.sae.gpu import kernels, launch
from unbox.sae.gpu.dead_latents import DeadLatents
from unbox.sae.sparse import SLICE_ELSEWHERE
from unbox.sae.topk import pre_activations

#: What an H100 does (benchmarks/gpu.py), a second: bytes gathered, operations of products, bytes of arrays.
GATHERED, PRODUCTS, STREAMED = 4e12, 6e14, 2.5e12
#: Entries of a latent, on average, up to which one program has the whole of it.
FEW = 2
#: Columns that one program can have.
WHOLE = 2048


def is_dense(rows: int, d: int, n: int, k: int) -> bool:
    """Whether dense products in bf16 take less time than gathering rows in float32, for a batch of rows.

    Sparse: five rows of d floats for each entry. Dense: four products, and six passes over (rows, n), which
    must fit into a slice.
    """
    if rows * n > SLICE_ELSEWHERE:
        return False
    sparse = 5 * rows * k * d * 4 / GATHERED
    return sparse > 8 * rows * n * d / PRODUCTS + 6 * rows * n * 2 / STREAMED


@dataclass(frozen=True, eq=False)
class Revival:
    """AuxK's gradients by the dead latents: (r, d), (r, d) and (r,)."""

    dead: DeadLatents
    encoder: Tensor
    decoder: Tensor
    bias: Tensor


@dataclass(frozen=True, eq=False)
class Pass:
    """A forward pass, and where codes are dense the gradients by W_enc and (over `factor`) W_dec (n, d)."""

    found: launch.Forward
    factor: float
    centred: Tensor
    """(B, d) x - b_pre in low precision."""
    sums: Tensor | None = None
    """(3, n) as of `launch.ByLatent`, where codes are dense."""
    gradients: tuple[Tensor, Tensor] | None = None

    @cached_property
    def total(self) -> Tensor:
        """(d,) sum of the error over the rows."""
        return self.found.error.sum(0)


@dataclass
class GPUStep:
    """One SAE's parameters on a GPU, and what its step works in."""

    weights: dict[str, Tensor]
    moments: dict[str, tuple[Tensor, Tensor]]
    k: int
    rows: int
    """Rows of a batch."""
    betas: tuple[float, float]
    eps: float
    low: torch.dtype = torch.bfloat16
    dense: bool = False
    low_encoder: Tensor = field(init=False)
    low_decoder: Tensor = field(init=False)
    norms: Tensor = field(init=False)
    columns: int = field(init=False)

    def __post_init__(self) -> None:
        n, d = self.weights["W_enc"].shape
        self.low_encoder = self.weights["W_enc"].to(self.low)
        self.low_decoder = self.weights["W_dec"].to(self.low) if self.dense else self.low_encoder[:0]
        # Where a latent has few entries one program takes its whole row, and makes it unit on the way.
        few = not self.dense and self.rows * self.k <= FEW * n and d <= WHOLE
        self.columns = triton.next_power_of_2(d) if few else launch.COLUMNS
        self.norms = self.weights["W_enc"].new_empty(n, triton.cdiv(d, self.columns))

    def copy_low(self) -> None:
        """Bring the copies in low precision up to the weights."""
        self.low_encoder.copy_(self.weights["W_enc"])
        if self.dense:
            self.low_decoder.copy_(self.weights["W_dec"])

    def forward(self, x: Tensor, factor: float) -> Pass:
        """Rows x (B, d); factor is twice that of |x^ - x|^2 in the loss."""
        w = self.weights
        centred = (x - w["b_pre"]).to(self.low)
        slices = pre_activations(centred, self.low_encoder, w["b_lat"].to(self.low))
        if self.dense:
            ((_, pre),) = slices
            values, indices = launch.topk(pre, self.k)
            return self._dense(x, centred, pre, values.relu(), indices, factor)
        parts = [launch.topk(pre, self.k)[1] for _, pre in slices]
        return Pass(launch.forward(x, w, torch.cat(parts), factor), factor, centred)

    def _dense(
        self, x: Tensor, centred: Tensor, buffer: Tensor, codes: Tensor, indices: Tensor, factor: float
    ) -> Pass:
        """The pass by dense products; `buffer` (B, n) is overwritten."""
        chosen = indices.long()
        dense = buffer.zero_().scatter_(1, chosen, codes)
        error = product(dense, self.low_decoder).sub_(x).add_(self.weights["b_pre"])
        low_error = error.to(self.low)
        decoder = product(dense.T, low_error)
        by_code = low_error @ self.low_decoder.T
        slopes = by_code.gather(1, chosen).mul_(codes > 0).mul_(factor)
        sparse = by_code.zero_().scatter_(1, chosen, slopes)
        encoder = product(sparse.T, centred)
        found = launch.Forward(indices, codes, slopes, error, torch.linalg.vector_norm(error).square())
        return Pass(found, factor, centred, launch.column_sums(dense, sparse), (encoder, decoder))

    def backward_and_update(
        self, x: Tensor, of: Pass, rate: Tensor, step: Tensor, revival: Revival | None = None
    ) -> Tensor:
        """Adam's step of all parameters; gives the number of positive codes of each latent (n,).

        `rate` () and `step` (), from 1 on, lie on the device, so that a captured step reads them anew.
        """
        w, found = self.weights, of.found
        entries = launch.by_latent(found, len(w["W_enc"])) if of.sums is None else None
        sums = of.sums if entries is None else entries.sums
        assert sums is not None
        bias, radial = sums[:2] if revival is None else self._with_revival(sums[:2], revival)
        d_pre = torch.addmv(of.total, w["W_enc"].T, bias, beta=of.factor, alpha=-1)
        self._update(x, of, entries, radial, rate, step, revival)
        gradients = {"b_lat": bias, "b_pre": d_pre}
        means, squares = zip(*(self.moments[name] for name in gradients), strict=True)
        torch._fused_adam_(
            [w[name] for name in gradients], [*gradients.values()], [*means], [*squares], [], [step, step],
            lr=rate, beta1=self.betas[0], beta2=self.betas[1], weight_decay=0, eps=self.eps, amsgrad=False,
            maximize=False,
        )  # fmt: skip
        return sums[2]

    def revive(self, of: Pass, dead: DeadLatents, coefficient: float, kappa: int) -> tuple[Tensor, Revival]:
        """AuxK's loss and gradients, by the formula of `sparse.AuxK`; rows go by in slices."""
        w, error = self.weights, of.found.error
        encoder, decoder = self.low_encoder[dead.rows], w["W_dec"][dead.rows].to(self.low)
        bias = (w["b_lat"][dead.rows] + dead.bias).to(self.low)
        norm = of.found.squares.sum() - of.total.square().sum() / len(error)
        share, parts = coefficient / norm, []
        for start, pre in pre_activations(of.centred, encoder, bias):
            rows = slice(start, start + len(pre))
            z = launch.keep_largest(pre, min(kappa, len(dead.ids)))
            left = product(z, decoder).add_(error[rows])
            g = torch.mul(left, 2 * share, out=torch.empty_like(of.centred[rows]))
            d_z = (g @ decoder.T).mul_(z > 0)
            loss = torch.linalg.vector_norm(left).square() * share
            parts.append(
                (loss, product(d_z.T, of.centred[rows]), product(z.T, g), d_z.sum(0, dtype=torch.float32))
            )
        loss, *gradients = (sum(some[1:], some[0]) for some in zip(*parts, strict=True))
        return loss, Revival(dead, *gradients)

    def _with_revival(self, sums: Tensor, revival: Revival) -> Tensor:
        """(2, n) sums of slopes and radial parts, AuxK's added."""
        along = torch.linalg.vecdot(revival.decoder, self.weights["W_dec"][revival.dead.rows])
        both = torch.nn.functional.pad(sums, (0, 1))
        both.index_add_(1, revival.dead.ids, torch.stack([revival.bias, along]))
        return both[:, :-1].contiguous()

    def _update(
        self,
        x: Tensor,
        of: Pass,
        entries: launch.ByLatent | None,
        radial: Tensor,
        rate: Tensor,
        step: Tensor,
        revival: Revival | None,
    ) -> None:
        """Adam's step of both matrices; the decoder's rows are unit again after."""
        w, m, (n, d) = self.weights, self.moments, self.weights["W_enc"].shape
        none, chunks = of.found.codes, self.norms.shape[1]
        sorted_ = (none,) * 4 if entries is None else entries.sorted
        encoder, decoder = of.gradients or (x, of.found.error)
        of_dead = (none,) * 3
        if revival is not None:
            of_dead = (revival.dead.slot, revival.encoder, revival.decoder)
        kernels.update_kernel[(n, chunks)](
            encoder, w["b_pre"], decoder, *sorted_, radial, of.factor,
            w["W_enc"], *m["W_enc"], w["W_dec"], *m["W_dec"],
            self.low_encoder, self.low_decoder, self.norms,
            *of_dead, rate, step, d, chunks,
            BETA1=self.betas[0], BETA2=self.betas[1], LOG1=log(self.betas[0]), LOG2=log(self.betas[1]),
            EPS=self.eps, GIVEN=of.gradients is not None,
            AUX=revival is not None, UNIT=chunks == 1, LOW=self.dense,
            ROWS=launch.ENTRIES, D_BLOCK=self.columns, num_warps=max(2, self.columns // 256),
        )  # fmt: skip
        if chunks == 1:
            return
        kernels.unit_rows_kernel[(n,)](
            w["W_dec"], self.low_decoder, self.norms, d, chunks, LOW=self.dense,
            CHUNKS=triton.next_power_of_2(chunks), D_BLOCK=triton.next_power_of_2(d), num_warps=4,
        )  # fmt: skip


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32, of factors in low precision."""
    if a.device.type == "cuda" and a.dtype != torch.float32:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()
