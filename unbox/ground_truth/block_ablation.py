"""What pictures of the Shapes world lose without a block: how far they move, and what is read otherwise."""

from typing import TypedDict

import numpy as np

from unbox.edit import Block
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
    before, result = readings(subject.detector, whole), []
    for block in blocks:
        images = subject.draw(texts, cases.seeds, [Block(block).ablate()] * len(texts))
        moved = np.stack(images).astype(np.float64) - np.stack(whole)
        after = readings(subject.detector, images)
        result.append(BlockAblation(
            block=block,
            change=float(np.sqrt(np.square(moved / 255).mean())),
            factors={
                name: float(np.mean([a[name] != b[name] for a, b in zip(after, before, strict=True)]))
                for name in FACTORS
            },
            pictures=[image_uri(image, quality=88) for image in images[:shown]],
        ))  # fmt: skip
    return result
