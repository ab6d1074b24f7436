"""The words that every room shares: block names, prompts, edits, errors. Imports nothing of unbox."""

from unbox.words.blocks import DEFAULT_BLOCKS, block_path, short_name
from unbox.words.edit import Block, Direction, Edit, Edits, Feature
from unbox.words.errors import UnboxError
from unbox.words.mask import Mask
from unbox.words.prompt import Prompt

__all__ = [
    "DEFAULT_BLOCKS",
    "Block",
    "Direction",
    "Edit",
    "Edits",
    "Feature",
    "Mask",
    "Prompt",
    "UnboxError",
    "block_path",
    "short_name",
]
