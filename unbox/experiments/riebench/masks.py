"""RIEBench's masks of what is named in either prompt: from a segmenter's files, or from cross-attention."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from einops import reduce, repeat
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from unbox.errors import UnboxError
from unbox.picture_file import read_mask

ImageMask = np.ndarray | None  # (y, x) of any resolution; None is everywhere


def placed(kind: str, original: ImageMask, edited: ImageMask) -> tuple[ImageMask, ImageMask]:
    """Masks of the original and of the donor side: adding uses the edited image's for both, deleting the
    original's, style everything."""
    if kind == "change style":
        return None, None
    if kind == "add object":
        return edited, edited
    return (original, original) if kind == "delete object" else (original, edited)


def mask_file(folder: str, example: str, side: str) -> Path:
    """Where the mask of an example's `original` or `editing` image is."""
    return Path(folder) / f"{example}_{side}.png"


def file_mask(path: Path) -> np.ndarray:
    """(y, x) in 0..1. Raises UnboxError where there is no such file."""
    if not path.is_file():
        raise UnboxError(f"there is no mask {path}")
    return read_mask(path)


def attention_mask(
    tokenizer: PreTrainedTokenizerBase, maps: Sequence[Tensor], text: str, words: Sequence[str]
) -> ImageMask:
    """Where the bracketed words are attended to: cross-attention averaged over blocks, steps, layers and
    heads, cut at the midpoint of its range; None (everywhere) where nothing is bracketed.

    `maps`: of each block (step, layer, head, y, x, key).
    """
    keys = [key for word in words for key in token_places(tokenizer, text, word)]
    if not keys:
        return None
    height, width = max(m.shape[-3] for m in maps), max(m.shape[-2] for m in maps)
    total = np.zeros((height, width), np.float32)
    for block in maps:
        mean = reduce(block[..., keys].float(), "step layer head y x key -> y x", "mean").numpy()
        total += repeat(mean, "y x -> (y a) (x b)", a=height // mean.shape[0], b=width // mean.shape[1])
    return (total >= (total.min() + total.max()) / 2).astype(np.float32)


def token_places(tokenizer: PreTrainedTokenizerBase, text: str, word: str) -> list[int]:
    """Places of a word's tokens in a prompt's token sequence; none where they are cut off."""
    start = text.find(word)
    if start < 0 or not word.strip():
        return []

    def length(part: str) -> int:
        return len(tokenizer(part, truncation=True).input_ids) - 1  # without the end token

    places = range(length(text[:start].rstrip()), length(text[: start + len(word)]))
    return [place for place in places if place < tokenizer.model_max_length - 1]
