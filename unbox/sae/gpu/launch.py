"""The kernels of `kernels`, launched on tensors: shapes, tiles and temporary arrays."""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from unbox.sae.gpu import kernels

#: Columns of a latent that one program of the update has, and entries that it adds at a time.
COLUMNS, ENTRIES = 256, 8
#: Values of a row over which its k-th largest is looked for by groups.
LONG = 4096


def _bits(values: Tensor) -> int:
    """Bits of a positive value's key: 16-bit floats have 15, float32 has 31."""
    return 15 if values.dtype in (torch.bfloat16, torch.float16) else 31


def topk(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of pre (B, n), float32 or a 16-bit float: values and indices (B, k), int32.

    In any order of rows' entries; what is not positive in any choice, and of equals any. The k groups of
    neighbours with the largest maxima hold the k largest values: those are found first.
    """
    count, n = pre.shape
    size = group_size(n, k)
    if size == 1:
        return _topk(pre, k)
    groups = triton.cdiv(n, size)
    maxima, per = pre.new_empty(count, groups), max(1, 4096 // size)
    kernels.group_maxima_kernel[(count, triton.cdiv(groups, per))](
        pre, maxima, n, groups, SIZE=size, GROUPS=per, num_warps=4
    )
    _, chosen = topk(maxima, k)
    return _topk(pre, k, chosen, size)


def group_size(n: int, k: int) -> int:
    """Neighbours in a group: a power of two, so that maxima and candidates are about as many; 1 where a row
    is short enough as it is."""
    if n < max(512, 4 * k):
        return 1
    size = 1
    while 4 * size * size * k <= 2 * n and size < 64:
        size *= 2
    return size


def _topk(pre: Tensor, k: int, chosen: Tensor | None = None, size: int = 0) -> tuple[Tensor, Tensor]:
    """`topk` of whole rows, or of the groups chosen (B, k) in each."""
    count, n = pre.shape
    candidates = n if chosen is None else k * size
    found, places = pre.new_empty(count, k), torch.empty(count, k, dtype=torch.int32, device=pre.device)
    block = triton.next_power_of_2(candidates)
    kernels.topk_kernel[(count,)](
        pre, places if chosen is None else chosen, found, places, n, candidates, k, k,
        SIZE=size, BITS=_bits(pre), BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip
    return found, places


def column_sums(codes: Tensor, slopes: Tensor) -> Tensor:
    """(3, n) as `ByLatent.sums`, of dense codes and slopes (B, n)."""
    count, n = codes.shape
    rows, columns = 256, 64
    parts = triton.cdiv(count, rows)
    sums = torch.empty(parts, 3, n, device=codes.device)
    kernels.column_sums_kernel[(triton.cdiv(n, columns), parts)](
        codes, slopes, sums, count, n, ROWS=rows, TILE=32, COLUMNS=columns, num_warps=4
    )
    return sums.sum(0)


def _warps(block: int) -> int:
    """Warps for a row of so many values: 16 to 32 values a thread."""
    return max(1, min(16, block // 512))


def keep_largest(values: Tensor, k: int) -> Tensor:
    """values (B, n) after the ReLU, with all but the k largest of each row set to 0 (equals are kept)."""
    count, n = values.shape
    if n > LONG and 8 * k <= n:
        least = topk(values, k)[0].amin(1, keepdim=True)
        return torch.where(values >= least, values, 0).relu_()
    out, block = torch.empty_like(values), triton.next_power_of_2(n)
    kernels.keep_largest_kernel[(count,)](
        values, out, n, k, BITS=_bits(values), BLOCK=block, num_warps=_warps(block)
    )
    return out


@dataclass(frozen=True, eq=False)
class Forward:
    """What a batch says of an SAE: (B, k) codes and slopes of the active latents, (B, d) error = x^ - x."""

    indices: Tensor
    codes: Tensor
    slopes: Tensor
    error: Tensor
    squares: Tensor
    """|error|^2: of each row (B,), or of all ()."""


def forward(x: Tensor, weights: dict[str, Tensor], indices: Tensor, factor: float) -> Forward:
    """Codes, reconstruction, error and slopes of rows x (B, d) with the latents chosen for each, (B, k)."""
    (count, d), k = x.shape, indices.shape[1]
    codes, slopes = (torch.empty(count, k, device=x.device) for _ in range(2))
    error, squares = torch.empty(count, d, device=x.device), torch.empty(count, device=x.device)
    width = triton.next_power_of_2(d)
    kernels.forward_kernel[(count,)](
        x, weights["b_pre"], weights["W_enc"], weights["b_lat"], weights["W_dec"], indices,
        codes, slopes, error, squares, factor, d, k,
        K_BLOCK=max(1, min(4, 8192 // width, triton.next_power_of_2(k))), D_BLOCK=width, num_warps=8,
    )  # fmt: skip
    return Forward(indices, codes, slopes, error, squares)


@dataclass(frozen=True, eq=False)
class ByLatent:
    """Entries in order of their latents; `starts` (n + 1,) int32 says where each latent's begin."""

    rows: Tensor
    """(E,) int32: row of the batch."""
    codes: Tensor
    slopes: Tensor
    starts: Tensor
    sums: Tensor
    """(3, n): sum of slopes, sum of code * slope, number of positive codes."""

    @property
    def sorted(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the update reads of the entries."""
        return self.rows, self.starts, self.codes, self.slopes


def by_latent(found: Forward, n: int) -> ByLatent:
    """Sort the entries of a batch by latent (stable), and sum what is wanted of each."""
    flat = found.indices.reshape(-1)
    latents, order = torch.sort(flat, stable=True)
    ids = torch.arange(n + 1, dtype=torch.int32, device=flat.device)
    starts = torch.searchsorted(latents, ids, out_int32=True)
    codes, slopes, rows = (
        torch.empty_like(found.codes),
        torch.empty_like(found.slopes),
        torch.empty_like(flat),
    )
    sums, each = torch.empty(3, n, device=flat.device), 8
    kernels.latent_sums_kernel[(triton.cdiv(n, each),)](
        order, starts, found.codes, found.slopes, sums, rows, codes, slopes, n, found.indices.shape[1],
        BLOCK=64, LATENTS=each,
    )  # fmt: skip
    return ByLatent(rows, codes, slopes, starts, sums)
