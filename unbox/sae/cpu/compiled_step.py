"""A training step on CPU by compiled loops (`topk_kernel`, `step_kernels`): the commonest case, where it is.

The case is a plain reconstruction (`topk`), one process, gradients not clipped. The encoder's product is
torch's. Where it is in bf16, so are the rows and errors that the weights' gradients are summed from, as under
autocast; codes, reconstructions and sums are in float32. To be called within `threads.worker_threads`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from activation_store.compiled_loops import AVAILABLE as AVAILABLE
from unbox.sae import sparse, topk
from unbox.sae.cpu.threads import parallel_for

#: Columns of the low-precision arrays beyond d. The first carries a one and the latents' bias through the
#: product; rows of a length that is no multiple of a large power of two meet fewer others in the caches.
EXTRA = 32

#: Pre-activations of a product, which stay in cache until they are forward_pass from, and what its rows are a
#: multiple of: with others it is slower by a fifth.
SLICE, STEP = 5 << 19, 128
#: Groups are as many as for so many active latents: with fewer the time goes into going from row to row.
LEAST = 32
#: Active latents of a row up to which the compiled top-k is used; for more NumPy's.
FEW = 32


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """A batch with its active latents, and what they reconstruct."""

    indices: Tensor
    """(B, k) int64."""
    values: Tensor
    """(B, k): codes."""
    slopes: Tensor
    """(B, k): gradient of the loss by the pre-activation."""
    rows: Tensor
    """(B, d or more): the rows for the encoder's gradient: x, or x - b_pre in bf16."""
    reconstruction_grad: Tensor
    """(B, d): x^ - x for the decoder's gradient and for AuxK, in the precision of the products."""
    bias: Tensor
    """(d,): sum of the errors."""
    squares: float
    """Sum of the squared errors."""
    factor: float
    """2 / (rows * variance)."""


def forward(x: Tensor, weights: Mapping[str, Tensor], low: Tensor, k: int, factor: float) -> ForwardPass:
    """The forward pass of a batch x (B, d), and the gradients by its pre-activations.

    `low` (n, d + EXTRA) has the encoder, and b_lat in column d, in the precision of the products.
    """
    from unbox.sae.cpu import step_kernels, topk_kernel

    (count, d), n, half = x.shape, len(low), low.dtype == torch.bfloat16
    centred = low.new_empty(count, d + EXTRA)
    indices = torch.empty(count, k, dtype=torch.int64)
    values, slopes = x.new_empty(count, k), x.new_empty(count, k)
    whole = x.new_empty(0 if half else count, d)
    short = torch.empty(count if half else 0, d, dtype=torch.bfloat16)
    kind = x.numpy().dtype.type
    size, step = topk.group(n, max(k, LEAST)), max(STEP, SLICE // n // STEP * STEP)
    squares, sums = dict[int, float](), dict[int, np.ndarray]()

    def encode(part: slice) -> None:
        step_kernels.centre_rows(part.start, part.stop, x.numpy(), weights["b_pre"].numpy(), bits_of(centred))
        buffer = low.new_empty(min(step, part.stop - part.start), n)
        for start in range(part.start, part.stop, step):
            at = slice(start, min(start + step, part.stop))
            pre = torch.mm(centred[at], low.T, out=buffer[: at.stop - at.start])
            # As whole numbers: in the order of all that is positive, and the rest is 0 after the ReLU.
            bits = pre.view(sparse.WHOLE[pre.itemsize]).numpy()
            if k > FEW:
                indices[at] = torch.from_numpy(topk.places_of_largest(bits, k, size))
            else:
                topk_kernel.topk_rows(bits, size, k, indices[at].numpy())

    def reconstruct(part: slice) -> None:
        sums[part.start] = np.zeros(d, kind)
        names = ("W_enc", "b_lat", "W_dec")
        read = (x, weights["b_pre"], indices, *(weights[name] for name in names))
        squares[part.start] = step_kernels.forward_rows(
            part.start,
            part.stop,
            *(t.numpy() for t in read),
            kind(factor),
            *(bits_of(t) for t in (values, slopes, whole, short)),
            sums[part.start],
        )

    parallel_for(encode, count)
    parallel_for(reconstruct, count)
    return ForwardPass(
        indices,
        values,
        slopes,
        rows=centred if half else x,
        reconstruction_grad=short if half else whole,
        bias=sum_of_ranges(sums),
        squares=sum(squares[start] for start in sorted(squares)),
        factor=factor,
    )


def auxk_inputs(run: ForwardPass, x: Tensor, b_pre: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """What AuxK asks for after the forward pass of x (B, d): x^ - x and x - b_pre (B, d), in the precision of
    the products, and the sums of the first (d,) and of its squares."""
    half = run.reconstruction_grad.dtype == torch.bfloat16
    centred = run.rows[:, : x.shape[1]] if half else x - b_pre
    return run.reconstruction_grad, centred, (run.bias.clone(), x.new_tensor(run.squares))


def backward_and_update(
    forward_pass: ForwardPass,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, tuple[Tensor, Tensor]],
    low: Tensor,
    adam: np.ndarray,
    dead: Tensor | None = None,
    revival: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Take the step of every latent; returns the gradient of b_pre (d,) and which latents fired (n,) bool.

    `adam`: of `adam_numbers`. `revival`: AuxK's gradients by the `dead` latents' W_enc (r, d), W_dec (r, d)
    and b_lat (r,).
    """
    from unbox.sae.cpu import step_kernels

    n, d = weights["W_enc"].shape
    order = sparse.stable_argsort(forward_pass.indices.reshape(-1), n)
    starts = torch.searchsorted(forward_pass.indices.reshape(-1)[order], torch.arange(n + 1))
    revived = torch.full((n,), -1, dtype=torch.int64)
    if dead is not None:
        revived[dead] = torch.arange(len(dead))
    blank, kind = weights["b_pre"].new_zeros(0), weights["b_pre"].numpy().dtype.type
    added = revival or (blank.view(0, d), blank.view(0, d), blank)
    b_pre = blank if low.dtype == torch.bfloat16 else weights["b_pre"]
    fired, d_pre = np.empty(n, np.bool_), {}
    run = forward_pass
    entries = (order, starts, run.values, run.slopes, run.rows, b_pre, run.reconstruction_grad)
    batch, auxk = (tuple(map(bits_of, group)) for group in (entries, (revived, *added)))
    arrays = arrays_of(weights, moments)

    def of_range(part: slice) -> None:
        d_pre[part.start] = sums = np.zeros(d, kind)
        step_kernels.backward_latents(
            part.start, part.stop, batch, kind(run.factor), auxk, arrays, bits_of(low), adam, sums, fired
        )

    parallel_for(of_range, n)
    return sum_of_ranges(d_pre) + forward_pass.bias * forward_pass.factor, torch.from_numpy(fired)


def arrays_of(
    weights: Mapping[str, Tensor], moments: Mapping[str, tuple[Tensor, Tensor]]
) -> tuple[np.ndarray, ...]:
    """The weights of latents, their means and mean squares, as the loop over latents takes them."""
    names = ("W_enc", "W_dec", "b_lat")
    state = [weights[name] for name in names] + [moments[name][i] for i in (0, 1) for name in names]
    return tuple(map(bits_of, state))


def adam_numbers(beta1: float, beta2: float, eps: float, rate: float, step: int) -> np.ndarray:
    """What the loop over latents wants to know of Adam at its `step`-th step: the betas, eps,
    rate / (1 - beta1^step) and 1 / sqrt(1 - beta2^step), float32."""
    return np.array([beta1, beta2, eps, rate / (1 - beta1**step), (1 - beta2**step) ** -0.5], np.float32)


def in_large_pages(tensor: Tensor) -> Tensor:
    """A copy in memory that Linux is asked to keep in pages of 2 MB, as NumPy's is: what is read a row here
    and a row there then costs fewer looks into the tables of pages."""
    if tensor.device.type != "cpu":
        return tensor
    return torch.from_numpy(np.empty(tensor.shape, np.float32)).copy_(tensor)


def sum_of_ranges(parts: Mapping[int, np.ndarray]) -> Tensor:
    """The sum over ranges, in their order."""
    return torch.stack([torch.from_numpy(parts[start]) for start in sorted(parts)]).sum(0)


def bits_of(tensor: Tensor) -> np.ndarray:
    """As NumPy has it: bf16 as its bits."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
