"""The sites of a model: the transformer blocks of its UNet, and what else can be recorded."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from unbox.site import ActivationKind, Site, unet_sites

#: Of a layer of a text encoder.
_TEXT_KINDS: tuple[ActivationKind, ...] = (
    "update", "input", "output", "self_heads", "ff_input", "ff_output",
)  # fmt: skip


def block_sites(unet: torch.nn.Module) -> dict[str, Site]:
    """Short name -> site of each of a UNet's transformer blocks, in the order of the forward pass."""
    network: Any = unet
    down, up = (tuple(map(_transformers, levels)) for levels in (network.down_blocks, network.up_blocks))
    return {site.name: site for site in unet_sites(down, up, _transformers(network.mid_block))}


def all_sites(pipelines: Sequence[DiffusionPipeline]) -> dict[str, Site]:
    """Short name -> site of all that can be recorded: of the base pipeline, and of a refiner's UNet."""
    base = pipelines[0]
    sites = [*_unet_sites(base.unet), *_text_sites(base), *_vae_sites(base.vae)]
    for refiner in pipelines[1:]:
        sites += [_of_refiner(site) for site in _unet_sites(refiner.unet)]
    return {site.name: site for site in sites}


def _unet_sites(unet: torch.nn.Module) -> Iterator[Site]:
    """The blocks, and the places without a transformer where a skip connection enters."""
    blocks = block_sites(unet)
    yield from blocks.values()
    levels: Any = unet.up_blocks
    for level, up in enumerate(levels):
        for i in range(len(up.resnets)):
            name, path = f"up.{level}.{i}", f"up_blocks.{level}.resnets.{i}"
            if name not in blocks:
                yield Site(name, len(levels) - 1 - level, module=path, kinds=("skip",))


def _of_refiner(site: Site) -> Site:
    return Site(
        f"refiner.{site.name}",
        site.halvings,
        component="refiner",
        module=site.path,
        kinds=site.kinds,
    )


def _text_sites(pipeline: DiffusionPipeline) -> Iterator[Site]:
    for number, component in ((1, "text_encoder"), (2, "text_encoder_2")):
        encoder = getattr(pipeline, component, None)
        for path in ("encoder.layers", "text_model.encoder.layers"):
            try:
                layers = [] if encoder is None else encoder.get_submodule(path)
            except AttributeError:
                continue
            for layer in range(len(layers)):
                yield Site(
                    f"text.{number}.{layer}",
                    0,
                    layout="tokens",
                    stream="text",
                    component=component,  # type: ignore[arg-type]  # one of the two
                    module=f"{path}.{layer}",
                    kinds=_TEXT_KINDS,
                )
            break


def _vae_sites(vae: torch.nn.Module) -> Iterator[Site]:
    """The blocks of an AutoencoderKL; other kinds of VAE have none."""
    for side, levels in (("encoder", "down"), ("decoder", "up")):
        part = getattr(vae, side, None)
        blocks = getattr(part, f"{levels}_blocks", None)
        if blocks is None or getattr(part, "mid_block", None) is None:
            continue
        yield Site(
            f"vae.{side}.mid",
            0,
            component="vae",
            module=f"{side}.mid_block",
            kinds=("update", "input", "output"),
        )
        for i in range(len(blocks)):
            yield Site(
                f"vae.{side}.{levels}.{i}",
                0,
                component="vae",
                module=f"{side}.{levels}_blocks.{i}",
                kinds=("input", "output"),
            )


def _transformers(level: torch.nn.Module | None) -> int:
    """How many transformer blocks a level of the UNet has."""
    attentions = getattr(level, "attentions", None) or ()
    return sum(isinstance(each, Transformer2DModel) for each in attentions)
