"""Activations of a model: which there are at some sites, the modules they are read at, and their shapes."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from unbox.errors import UnboxError
from unbox.models.model import Model
from unbox.site import LAYER_KINDS, Activation, Site


def activations_of(
    model: Model,
    sites: Sequence[str],
    kinds: Sequence[str],
    layers: Sequence[int] | None = None,
    others: Collection[str] = (),
) -> tuple[Activation, ...]:
    """The activations of some kinds at some sites; `layers` of a block's transformer layers, None for all.

    Each site gives those of the kinds that it has. Raises UnboxError for sites, layers and kinds that there
    are not: a kind that none of the sites has, a site that has none of them (but `others`, which give
    something else).
    """
    asked = {kind: ("self_heads", "cross_heads") if kind == "heads" else (kind,) for kind in kinds}
    wanted = dict.fromkeys(kind for some in asked.values() for kind in some)
    chosen = [site_of(model, name) for name in dict.fromkeys(sites)]
    found = {site.name: [kind for kind in wanted if kind in site.kinds] for site in chosen}
    for site in chosen:
        if not found[site.name] and site.name not in others:
            raise UnboxError(f"{site.name} has no {', '.join(wanted)}; it has {', '.join(site.kinds)}")
    there = {kind for some in found.values() for kind in some}
    if absent := [kind for kind, some in asked.items() if not there & set(some)]:
        raise UnboxError(f"{', '.join(found)}: there is no {absent[0]} of these")
    return tuple(
        Activation(site, kind, layer)
        for site in chosen
        for kind in site.kinds
        if kind in found[site.name]
        for layer in _layers(model, site, kind, layers)
    )


def site_of(model: Model, name: str) -> Site:
    """The site of a short name. Raises UnboxError listing those that exist."""
    if name not in model.all_sites:
        blocks, others = ", ".join(model.blocks), [n for n in model.all_sites if n not in model.blocks]
        raise UnboxError(
            f"this model has no block '{name}'; it has {blocks}; its other sites are {_ranges(others)}"
        )
    return model.all_sites[name]


def pipeline_of(model: Model, site: Site) -> DiffusionPipeline:
    """The pipeline whose network a site is in. What an ensemble decodes, its last one does."""
    return model.pipelines[-1 if site.component in ("refiner", "vae") else 0]


def network_of(model: Model, site: Site) -> torch.nn.Module:
    """The network that a site is in."""
    name = "unet" if site.component == "refiner" else site.component
    network: torch.nn.Module = getattr(pipeline_of(model, site), name)
    return network


def module_of(model: Model, site: Site) -> torch.nn.Module:
    """The module of a site."""
    return network_of(model, site).get_submodule(site.path)


def layer_path(site: Site, kind: str, layer: int | None) -> str:
    """Path inside its network of the part of a layer at which a kind is read."""
    if site.layout == "tokens":
        return f"{site.path}.{'self_attn.out_proj' if kind == 'self_heads' else 'mlp'}"
    parts = {"self_heads": "attn1.to_out.0", "cross_heads": "attn2.to_out.0"}
    return f"{site.path}.transformer_blocks.{layer}.{parts.get(kind, 'ff')}"


def check_layers(name: str, block: Transformer2DModel, wanted: Sequence[int] | None) -> list[int]:
    """The layers of a block that are wanted, None for all. UnboxError for one that there is not."""
    count = len(block.transformer_blocks)
    chosen = list(range(count)) if wanted is None else list(dict.fromkeys(wanted))
    if absent := [layer for layer in chosen if not 0 <= layer < count]:
        raise UnboxError(f"{name} has no transformer layer {absent[0]}; it has 0 to {count - 1}")
    return chosen


def shape_of(model: Model, activation: Activation, height: int, width: int) -> tuple[int, int, int]:
    """(y, x, channels) of one image's activations, for images of `height` x `width` pixels; of tokens
    (1, tokens, channels)."""
    site, pipeline = activation.site, pipeline_of(model, activation.site)
    if site.layout == "tokens":
        tokenizer = pipeline.tokenizer if site.component == "text_encoder" else pipeline.tokenizer_2
        encoder: Any = network_of(model, site)
        return 1, int(tokenizer.model_max_length), int(encoder.config.hidden_size)
    latent = height // pipeline.vae_scale_factor, width // pipeline.vae_scale_factor
    if site.component == "vae":
        return _vae_shape(pipeline.vae, activation, (height, width), latent)
    return *site.grid(*latent), _unet_width(network_of(model, site), activation)


def _layers(
    model: Model, site: Site, kind: str, layers: Sequence[int] | None
) -> Sequence[int] | Sequence[None]:
    if kind not in LAYER_KINDS or site.layout == "tokens":
        return [None]
    block = module_of(model, site)
    assert isinstance(block, Transformer2DModel)
    return check_layers(site.name, block, layers)


def _unet_width(unet: torch.nn.Module, activation: Activation) -> int:
    """Channels of an activation of a UNet."""
    site, kind = activation.site, activation.kind
    if kind == "skip":
        return _skip_widths(unet)[site.name.removeprefix("refiner.")]
    block: Any = unet.get_submodule(site.path)
    if activation.layer is None:
        return int(getattr(block, site.width))
    layer = block.transformer_blocks[activation.layer]
    if kind == "cross_heads":
        return int(layer.attn2.inner_dim)
    return int(layer.attn1.inner_dim if kind == "self_heads" else layer.attn1.query_dim)


def _skip_widths(unet: torch.nn.Module) -> dict[str, int]:
    """Channels of the skip connection that enters before each place of the up side, by the place's name: the
    up side takes from the end what the down side has given."""
    network: Any = unet
    given = [network.conv_in.out_channels]
    for down in network.down_blocks:
        given += [resnet.out_channels for resnet in down.resnets]
        given += [sampler.out_channels for sampler in down.downsamplers or ()]
    places = (f"up.{level}.{i}" for level, up in enumerate(network.up_blocks) for i in range(len(up.resnets)))
    return dict(zip(places, reversed(given), strict=True))


def _vae_shape(
    vae: torch.nn.Module, activation: Activation, pixels: tuple[int, int], latent: tuple[int, int]
) -> tuple[int, int, int]:
    """(y, x, channels) of an activation of a VAE: its sides are halved or doubled by each level before."""
    _, side, *place = activation.site.name.split(".")
    network: Any = vae
    block, end = network.get_submodule(activation.site.path), activation.kind == "output"
    channels = int(block.resnets[-1].out_channels if end else block.resnets[0].in_channels)
    if place == ["mid"]:
        return (*latent, channels)
    number = int(place[1])
    if side == "decoder":
        doubled = sum(bool(up.upsamplers) for up in network.decoder.up_blocks[: number + end])
        return latent[0] << doubled, latent[1] << doubled, channels
    halved = sum(bool(down.downsamplers) for down in network.encoder.down_blocks[: number + end])
    return pixels[0] >> halved, pixels[1] >> halved, channels


def _ranges(names: Sequence[str]) -> str:
    """Names in few words: `text.1.0` to `text.1.11` as `text.1.0..11`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        stem, _, last = name.rpartition(".")
        groups.setdefault(stem if last.isdigit() else name, []).append(last)
    return ", ".join(_range(stem, lasts) for stem, lasts in groups.items())


def _range(stem: str, lasts: Sequence[str]) -> str:
    if not lasts[0].isdigit():
        return stem
    return f"{stem}.{lasts[0]}" if len(lasts) == 1 else f"{stem}.{lasts[0]}..{lasts[-1]}"
