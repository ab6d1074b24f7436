"""Attention maps, computed beside the model's own attention: the image stays the same to the last bit."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel

from unbox.capture.block_hooks import Args, Kwargs, hidden_states
from unbox.errors import UnboxError
from unbox.models.model import Model

#: Kind of map -> the attention module of a transformer layer that makes it.
KINDS = {"self": "attn1", "cross": "attn2"}

#: Called with (block, kind, layer, maps), maps (rows, heads, y, x, keys), new tensors.
MapObserver = Callable[[str, str, int, torch.Tensor], None]


@contextmanager
def watch_attention(
    model: Model,
    blocks: Sequence[str],
    kinds: Sequence[str],
    layers: Sequence[int] | None,
    observe: MapObserver,
) -> Iterator[None]:
    """Call `observe` with the softmax of every forward of the chosen layers (None: all) of the named blocks.

    Costs the scores once more; memory grows with positions x keys. Raises UnboxError for a layer that is not
    there and for fused projections, which have no separate queries and keys.
    """
    with ExitStack() as stack:
        for name in blocks:
            block: Any = model.block(name)
            grid = [0, 0]
            note = partial(_note_grid, grid)
            stack.callback(block.register_forward_pre_hook(note, with_kwargs=True).remove)
            for layer in _layers(name, block, layers):
                for kind in kinds:
                    attention = getattr(block.transformer_blocks[layer], KINDS[kind])
                    if getattr(attention, "fused_projections", False):
                        raise UnboxError(
                            f"{name} has fused projections; call pipeline.unfuse_qkv_projections()"
                        )
                    hook = partial(_read_scores, partial(observe, name, kind, layer), grid)
                    stack.callback(attention.register_forward_hook(hook, with_kwargs=True).remove)
        yield


def scores(
    attention: Attention,
    hidden: torch.Tensor,
    context: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax of the scaled dot products of an attention module, (rows, heads, queries, keys)."""
    keys_from = hidden if context is None else context
    query = attention.head_to_batch_dim(attention.to_q(hidden))
    key = attention.head_to_batch_dim(attention.to_k(keys_from))
    if mask is not None:
        mask = attention.prepare_attention_mask(mask, keys_from.shape[1], len(hidden))
    return attention.get_attention_scores(query, key, mask).unflatten(0, (len(hidden), attention.heads))


def _layers(name: str, block: Transformer2DModel, wanted: Sequence[int] | None) -> list[int]:
    count = len(block.transformer_blocks)
    chosen = list(range(count)) if wanted is None else list(wanted)
    if absent := [layer for layer in chosen if not 0 <= layer < count]:
        raise UnboxError(f"{name} has no transformer layer {absent[0]}; it has 0 to {count - 1}")
    return chosen


def _note_grid(grid: list[int], module: torch.nn.Module, args: Args, kwargs: Kwargs) -> None:
    grid[:] = hidden_states(args, kwargs).shape[-2:]


@torch.no_grad()
def _read_scores(
    observe: Callable[[torch.Tensor], None],
    grid: list[int],
    attention: Attention,
    args: Args,
    kwargs: Kwargs,
    output: torch.Tensor,
) -> None:
    context, mask = kwargs.get("encoder_hidden_states"), kwargs.get("attention_mask")
    observe(scores(attention, hidden_states(args, kwargs), context, mask).unflatten(2, tuple(grid)))
