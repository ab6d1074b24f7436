"""Sites: what of a model can be recorded or edited. A UNet's are its transformer blocks, by short names.

`down.2.1` is `down_blocks.2.attentions.1` of the UNet.
"""

import re
from collections.abc import Sequence
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

_SHORT = re.compile(r"(?:(down|up)\.([0-9]+)|mid)\.([0-9]+)")
_PATH = re.compile(r"(?:unet\.)?(?:(down|up)_blocks\.([0-9]+)|mid_block)\.attentions\.([0-9]+)")


def _block_name(value: object) -> object:
    if not isinstance(value, str) or not _SHORT.fullmatch(value):
        raise ValueError(f"should be the name of a block, like {', '.join(DEFAULT_BLOCKS)}")
    return value


#: The short name of a block.
BlockName = Annotated[str, BeforeValidator(_block_name)]


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

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of one image's updates, behind step and branch."""
        return LAYOUTS[self.layout]

    @property
    def path(self) -> str:
        """Path of the module inside the UNet."""
        return block_path(self.name)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(y, x) of the site for latents of `height` x `width`."""
        return -(-height // 2**self.halvings), -(-width // 2**self.halvings)


def unet_sites(down: Sequence[int], up: Sequence[int], mid: int = 1) -> tuple[Site, ...]:
    """Sites of a UNet in the order of its forward pass, from the transformer blocks that each level has."""
    deepest = len(down) - 1
    return (
        *(Site(f"down.{level}.{i}", level) for level, count in enumerate(down) for i in range(count)),
        *(Site(f"mid.{i}", deepest) for i in range(mid)),
        *(Site(f"up.{level}.{i}", deepest - level) for level, count in enumerate(up) for i in range(count)),
    )


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
