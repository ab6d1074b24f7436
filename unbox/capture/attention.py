"""Attention maps, computed beside the model's own attention: the image stays the same to the last bit."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention

from unbox.capture.activation_hooks import Args, Kwargs, hidden_states
from unbox.capture.activations import check_layers, module_of, network_of
from unbox.capture.compiled import refuse_compiled
from unbox.errors import UnboxError
from unbox.models.model import Model
from unbox.site import Site

#: Kind of map -> the attention module of a transformer layer that makes it.
KINDS = {"self": "attn1", "cross": "attn2"}

#: Called with (site, kind, layer, maps), maps (rows, heads, y, x, keys), new tensors.
MapObserver = Callable[[Site, str, int, torch.Tensor], None]


@contextmanager
def watch_attention(
    model: Model,
    sites: Sequence[Site],
    kinds: Sequence[str],
    layers: Sequence[int] | None,
    observe: MapObserver,
) -> Iterator[None]:
    """Call `observe` with the softmax of every forward of the chosen layers (None: all) of some sites.

    Costs the scores once more; memory grows with positions x keys. With an IP-Adapter the maps are over the
    text's tokens. Raises UnboxError for sites without such layers, a layer that is not there, compiled
    layers, and fused projections, which have no separate queries and keys.
    """
    with ExitStack() as stack:
        for site in sites:
            if not has_maps(site):
                raise UnboxError(f"{site.name} has no attention maps that can be recorded: blocks have them")
            block: Any = module_of(model, site)
            grid = [0, 0]
            note = partial(_note_grid, grid)
            stack.callback(block.register_forward_pre_hook(note, with_kwargs=True).remove)
            for layer in check_layers(site.name, block, layers):
                for kind in kinds:
                    place = f"{site.path}.transformer_blocks.{layer}.{KINDS[kind]}"
                    refuse_compiled(network_of(model, site), place, f"{kind} attention of {site.name}")
                    attention = getattr(block.transformer_blocks[layer], KINDS[kind])
                    if getattr(attention, "fused_projections", False):
                        raise UnboxError(
                            f"{site.name} has fused projections; call pipeline.unfuse_qkv_projections()"
                        )
                    hook = partial(_read_scores, partial(observe, site, kind, layer), grid)
                    stack.callback(attention.register_forward_hook(hook, with_kwargs=True).remove)
        yield


def has_maps(site: Site) -> bool:
    """Whether attention maps of a site can be recorded: of blocks of a UNet."""
    return "cross_heads" in site.kinds


def scores(
    attention: Attention,
    hidden: torch.Tensor,
    context: torch.Tensor | tuple[torch.Tensor, list[torch.Tensor]] | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax of the scaled dot products of an attention module, (rows, heads, queries, keys)."""
    if isinstance(context, tuple):  # of an IP-Adapter: the text, and its own pictures
        context = context[0]
    keys_from = hidden if context is None else context
    query = attention.head_to_batch_dim(attention.to_q(hidden))
    key = attention.head_to_batch_dim(attention.to_k(keys_from))
    if mask is not None:
        mask = attention.prepare_attention_mask(mask, keys_from.shape[1], len(hidden))
    return attention.get_attention_scores(query, key, mask).unflatten(0, (len(hidden), attention.heads))


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
