"""Sites: what of a model can be recorded or edited, by short names, and what can be recorded of each.

`down.2.1` is `down_blocks.2.attentions.1` of the UNet, and `refiner.down.2.1` of an ensemble's refiner;
`text.2.30` is layer 30 of the second text encoder; `vae.decoder.up.0` is `up_blocks.0` of the VAE's decoder.
Edits act on the UNet's blocks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Le
from pydantic import BeforeValidator

from unbox.errors import UnboxError
from unbox.validation import Index, Text, checked, validated

#: The four blocks of "Unpacking SDXL Turbo" (arXiv 2410.22366).
DEFAULT_BLOCKS = ("down.2.1", "mid.0", "up.0.0", "up.0.1")

#: The order of branches on every branch axis.
BRANCHES = ("cond", "uncond")

#: The axes of what is read at a site: positions of a picture, or tokens of a text.
LAYOUTS = {"maps": ("y", "x", "channel"), "tokens": ("token", "channel")}

#: Kinds of vectors, one for each position: of a site what it adds (output minus input), its input, its
#: output, and the skip connection that enters before it; of each of its transformer layers what its heads
#: write, before they are mixed (`to_out`), one after the other, and its feed-forward part's input and output.
ActivationKind = Literal[
    "update", "input", "output", "skip", "self_heads", "cross_heads", "ff_input", "ff_output"
]
#: Those of each transformer layer.
LAYER_KINDS: tuple[ActivationKind, ...] = ("self_heads", "cross_heads", "ff_input", "ff_output")
#: Those of every transformer block of a UNet.
BLOCK_KINDS: tuple[ActivationKind, ...] = ("update", "input", "output", *LAYER_KINDS)
#: What may be asked for: `heads` is both kinds of heads.
AskedKind = Literal[
    "update", "input", "output", "skip", "heads", "self_heads", "cross_heads", "ff_input", "ff_output"
]

_SHORT = re.compile(r"(?:(down|up)\.([0-9]+)|mid)\.([0-9]+)")
_SITE = re.compile(
    rf"(?:refiner\.)?(?:{_SHORT.pattern})|text\.[12]\.[0-9]+"
    r"|vae\.(?:encoder\.(?:down\.[0-9]+|mid)|decoder\.(?:up\.[0-9]+|mid))"
)
_PATH = re.compile(r"(?:unet\.)?(?:(down|up)_blocks\.([0-9]+)|mid_block)\.attentions\.([0-9]+)")


def _block_name(value: object) -> object:
    if not isinstance(value, str) or not _SHORT.fullmatch(value):
        raise ValueError(f"should be the name of a block, like {', '.join(DEFAULT_BLOCKS)}")
    return value


#: The short name of a block.
BlockName = Annotated[str, BeforeValidator(_block_name)]


def _site_name(value: object) -> object:
    if not isinstance(value, str) or not _SITE.fullmatch(value):
        raise ValueError(
            f"should be the name of a block, like {', '.join(DEFAULT_BLOCKS)}, or of another site, like "
            "refiner.mid.0, text.2.30, vae.decoder.mid"
        )
    return value


#: The short name of a site: of a block, or of what else can be recorded.
SiteName = Annotated[str, BeforeValidator(_site_name)]


@validated
class Site:
    """One place whose input and output can be read, and whose output can be changed."""

    name: Text
    """Short name, `up.0.1`."""
    halvings: Annotated[Index, Le(32)]
    """How often the latent's sides are halved before it, rounding up."""
    width: Text = "in_channels"
    """Attribute of the module that holds the number of channels d of a vector."""
    layout: Literal["maps", "tokens"] = "maps"
    """One of `LAYOUTS`."""
    stream: Text = "image"
    """What runs through it: image or text."""
    component: Literal["unet", "refiner", "text_encoder", "text_encoder_2", "vae"] = "unet"
    """The network that it is in."""
    module: Text = ""
    """Path of the module inside the network; empty: the block of that name."""
    kinds: tuple[ActivationKind, ...] = BLOCK_KINDS
    """What can be recorded of it."""

    @property
    def once(self) -> bool:
        """Whether it runs once in a call of the pipeline, and not in every step."""
        return self.component not in ("unet", "refiner")

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of one image's updates, behind step and branch."""
        return LAYOUTS[self.layout]

    @property
    def path(self) -> str:
        """Path of the module inside its network."""
        return self.module or block_path(self.name)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(y, x) of the site for latents of `height` x `width`."""
        return -(-height // 2**self.halvings), -(-width // 2**self.halvings)


def unet_sites(down: Sequence[int], up: Sequence[int], mid: int = 1) -> tuple[Site, ...]:
    """Sites of a UNet in the order of its forward pass, from the transformer blocks that each level has."""
    deepest = len(down) - 1
    skip: tuple[ActivationKind, ...] = (*BLOCK_KINDS, "skip")
    return (
        *(Site(f"down.{level}.{i}", level) for level, count in enumerate(down) for i in range(count)),
        *(Site(f"mid.{i}", deepest) for i in range(mid)),
        *(
            Site(f"up.{level}.{i}", deepest - level, kinds=skip)
            for level, count in enumerate(up)
            for i in range(count)
        ),
    )


@dataclass(frozen=True)
class Activation:
    """What is recorded: one kind of vectors of a site, of one of its transformer layers for `LAYER_KINDS`."""

    site: Site
    kind: ActivationKind
    layer: int | None = None
    """Layer of a block that has several; None: of the whole site."""

    @property
    def name(self) -> str:
        """What it is called in a store: `mid.0` (its update), `mid.0.input`, `mid.0.cross_heads.3`."""
        return activation_name(self.site.name, self.kind, self.layer)

    def __str__(self) -> str:
        return self.name


def activation_name(site: str, kind: str = "update", layer: int | None = None) -> str:
    """What rows of a site are called in a store; updates bear the site's own name."""
    parts = [site, *([] if kind == "update" else [kind]), *([] if layer is None else [str(layer)])]
    return ".".join(parts)


def block_path(name: str) -> str:
    """Module path inside the UNet of a block's short name. Raises FieldError for a malformed name."""
    match = _SHORT.fullmatch(checked(BlockName, "block", name))
    assert match is not None
    side, level, index = match.groups()
    return f"{side}_blocks.{level}.attentions.{index}" if side else f"mid_block.attentions.{index}"


def short_name(path: str) -> str:
    """Short name of a module path (`unet.` in front is allowed). Raises UnboxError for any other path."""
    match = _PATH.fullmatch(checked(Text, "path", path))
    if match is None:
        raise UnboxError(f"'{path}' is not the path of a transformer block, like mid_block.attentions.0")
    side, level, index = match.groups()
    return f"{side}.{level}.{index}" if side else f"mid.{index}"
