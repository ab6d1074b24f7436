"""Pictures as tensors of one size, for networks that measure them."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor


def opened(path: Path) -> Image.Image:
    """A picture of ours, read."""
    with Image.open(path) as image:
        return image.convert("RGB")


def rgb(image: Image.Image) -> np.ndarray:
    """(height, width, 3) float32 in 0..1."""
    return np.asarray(image.convert("RGB"), np.float32) / 255


def signed(images: Sequence[Image.Image], device: torch.device | str) -> Tensor:
    """(n, 3, height, width) float32 in -1..1 of images of one size; bytes cross to the device."""
    levels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images])).to(device)
    return rearrange(levels, "n y x c -> n c y x").float() / 127.5 - 1


def by_size(images: Sequence[Image.Image], batch: int) -> Iterator[list[int]]:
    """Places of images in batches of at most `batch`, each of one size."""
    groups = defaultdict[tuple[int, int], list[int]](list)
    for place, image in enumerate(images):
        groups[image.size].append(place)
    for places in groups.values():
        yield from (places[i : i + batch] for i in range(0, len(places), batch))


def picture_key(image: Image.Image) -> str:
    """What tells one picture from others: a digest of its size and bytes."""
    return sha256(repr((image.size, image.mode)).encode() + image.tobytes()).hexdigest()
