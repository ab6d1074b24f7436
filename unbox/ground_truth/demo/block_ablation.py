"""What pictures of the Shapes world lose without a block: how far they move, and what is read otherwise."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from PIL import Image

from unbox.edit import Block, Edits
from unbox.ground_truth.demo.demo_plan import QUALITY
from unbox.ground_truth.effects import Cases, ModelUnderTest, readings
from unbox.image_uri import image_uri
from unbox.shapes import FACTORS


class BlockAblation(TypedDict):
    """Of one block."""

    block: str
    change: float
    """Root mean square change of pictures, in 0..1."""
    factors: dict[str, float]
    """Share of pictures in which each factor is read otherwise."""
    pictures: list[str]
    """The first pictures without it, as data URIs."""


def ablate_blocks(
    subject: ModelUnderTest, cases: Cases, blocks: tuple[str, ...], shown: int = 6
) -> list[BlockAblation]:
    """Draw the cases again without each of some blocks; `shown` pictures of each are kept."""
    texts = [prompt.text for prompt in cases.prompts]
    whole = subject.draw(texts, cases.seeds)
    before, pixels, result = readings(subject.detector, whole), _pixels(whole), []
    for block in blocks:
        images = subject.draw(texts, cases.seeds, [Edits((Block(block).ablate(),))] * len(texts))
        after = readings(subject.detector, images)
        result.append(BlockAblation(
            block=block,
            change=float(np.sqrt(np.square(_pixels(images) - pixels).mean())),
            factors={
                name: float(np.mean([a[name] != b[name] for a, b in zip(after, before, strict=True)]))
                for name in FACTORS
            },
            pictures=[image_uri(image, quality=QUALITY) for image in images[:shown]],
        ))  # fmt: skip
    return result


def _pixels(images: Sequence[Image.Image]) -> np.ndarray:
    """Pictures (n, y, x, 3) in 0..1."""
    return np.stack([np.asarray(image, np.float64) / 255 for image in images])
