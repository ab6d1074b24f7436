"""RIEBench's masks of what is named in either prompt: from files, a segmenter, or cross-attention."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import reduce
from scipy.ndimage import maximum_filter
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from unbox.errors import UnboxError
from unbox.models.token_places import token_places
from unbox.picture_file import read_mask

ImageMask = np.ndarray | None  # (y, x) of any resolution; None is everywhere

#: RIEBench widens masks by a window of 31 pixels in pictures of 512.
WIDENED, OF = 31, 512

#: Taps of the Lanczos window on either side.
LANCZOS = 4


def mask_file(folder: str, example: str, side: str) -> Path:
    """Where the mask of an example's `original` or `editing` image is."""
    return Path(folder) / f"{example}_{side}.png"


def file_mask(path: Path) -> np.ndarray:
    """(y, x) in 0..1. Raises UnboxError where there is no such file."""
    if not path.is_file():
        raise UnboxError(f"there is no mask {path}")
    return read_mask(path)


def on_grid(mask: ImageMask, height: int, width: int, widened: bool = True) -> np.ndarray:
    """(height, width) bool: the places of a block that a picture's mask covers, as RIEBench reduces it.

    The mask is widened by 31 pixels of 512, then each place is taken where Lanczos' window (8 x 8 pixels
    about its middle) of it is above 0; where that leaves none, the place with most of the mask is taken.
    Without `widened` (masks that are of a block's grid already) places are taken that the mask covers by
    half. Raises UnboxError for a mask that is nowhere.
    """
    if mask is None:
        return np.ones((height, width), bool)
    inside = np.asarray(mask) > 0.5
    if not inside.any():
        raise UnboxError("the mask is nowhere: nothing was found in the picture")
    covered = torch.from_numpy(inside[None, None].astype(np.float32))
    share = F.adaptive_avg_pool2d(covered, (height, width))[0, 0].numpy()
    rows, columns = inside.shape
    window = [2 * round((WIDENED - 1) / 2 * side / OF) + 1 for side in (rows, columns)]
    wide = maximum_filter(inside.astype(np.float64), size=window)
    lanczos = _lanczos(rows, height) @ wide @ _lanczos(columns, width).T
    found = lanczos > 1e-6 if widened else share >= 0.5
    if not found.any():
        found = np.zeros((height, width), bool)
        found[np.unravel_index(share.argmax(), share.shape)] = True
    return found


def _lanczos(source: int, target: int) -> np.ndarray:
    """(target, source) weights of sampling at the middles of `target` equal cells; pixels beyond an edge are
    its own. No wider where cells are larger, as in OpenCV's INTER_LANCZOS4."""
    weights = np.zeros((target, source))
    for cell in range(target):
        middle = (cell + 0.5) * source / target - 0.5
        first = math.floor(middle) - LANCZOS + 1
        offsets = np.arange(first, first + 2 * LANCZOS) - middle
        taps = np.sinc(offsets) * np.sinc(offsets / LANCZOS)
        places = np.clip(np.arange(first, first + 2 * LANCZOS), 0, source - 1)
        np.add.at(weights[cell], places, taps / taps.sum())
    return weights


def attention_mask(
    tokenizer: PreTrainedTokenizerBase, maps: Sequence[Tensor], text: str, words: Sequence[str]
) -> ImageMask:
    """Where the bracketed words are attended to: cross-attention averaged over blocks, steps, layers and
    heads, cut at the midpoint of its range; None (everywhere) where nothing is bracketed.

    `maps`: of each block (step, layer, head, y, x, key); the mask has the finest block's grid.
    """
    keys = [key for word in words for key in token_places(tokenizer, text, word)]
    if not keys:
        return None
    finest = max(m.shape[-3] for m in maps), max(m.shape[-2] for m in maps)
    total = np.zeros(finest, np.float32)
    for block in maps:
        mean = reduce(block[..., keys].float().cpu(), "step layer head y x key -> y x", "mean")
        total += F.interpolate(mean[None, None], finest, mode="nearest-exact")[0, 0].numpy()
    return (total >= (total.min() + total.max()) / 2).astype(np.float32)
