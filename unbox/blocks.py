"""Short names of transformer blocks: `down.2.1` is `down_blocks.2.attentions.1` of the UNet."""

import re

from unbox.errors import UnboxError

#: The four blocks of "Unpacking SDXL Turbo" (arXiv 2410.22366).
DEFAULT_BLOCKS = ("down.2.1", "mid.0", "up.0.0", "up.0.1")

_SHORT = re.compile(r"(?:(down|up)\.(\d+)|mid)\.(\d+)")
_PATH = re.compile(r"(?:unet\.)?(?:(down|up)_blocks\.(\d+)|mid_block)\.attentions\.(\d+)")


def block_path(name: str) -> str:
    """Module path inside the UNet of a block's short name. Raises UnboxError for a malformed name."""
    match = _SHORT.fullmatch(name)
    if match is None:
        raise UnboxError(f"'{name}' is not a block name; blocks are named like {', '.join(DEFAULT_BLOCKS)}")
    side, level, index = match.groups()
    return f"{side}_blocks.{level}.attentions.{index}" if side else f"mid_block.attentions.{index}"


def short_name(path: str) -> str:
    """Short name of a module path (`unet.` in front is allowed). Raises UnboxError for any other path."""
    match = _PATH.fullmatch(path)
    if match is None:
        raise UnboxError(f"'{path}' is not the path of a transformer block, like mid_block.attentions.0")
    side, level, index = match.groups()
    return f"{side}.{level}.{index}" if side else f"mid.{index}"
