"""A store and an SAE of which everything is known: feature f is direction f, active where the tests say."""

from itertools import islice
from pathlib import Path

import numpy as np
import torch

from activation_store import Sample, Schema, Store, Writer
from unbox.sae.model import SAE, Stats

#: Images, steps, and the grids of two blocks.
IMAGES, STEPS, WIDTH, LATENTS = 120, (0, 1), 12, 12
GRIDS = {"mid.0": (4, 4), "up.0.0": (8, 8)}
WORDS = ("red", "green", "blue", "dog", "cat", "bird")


#: The colours of the thumbnails.
COLOURS = ((220, 0, 0), (0, 220, 0), (0, 0, 220))


def scene(i: int) -> tuple[int, int]:
    """Colour and animal of image i."""
    return i % 3, 3 + (i // 3) % 3


def caption(i: int) -> str:
    colour, animal = scene(i)
    return f"a {WORDS[colour]} {WORDS[animal]} in the garden"


def activations(i: int, block: str) -> np.ndarray:
    """(step, branch, y, x, latent): what is planted in image i.

    Latents 0-2: the image's colour, at step 0, in the upper left quarter. Latents 3-5: the animal, at both
    steps, in the lower right quarter. Latent 6: with latent 0, half as strong. Latent 7: everywhere, in every
    image, at step 1. The strength of colours and animals grows with the image's number.
    """
    height, width = GRIDS[block]
    z = np.zeros((2, 1, height, width, LATENTS), np.float32)
    colour, animal = scene(i)
    strength = 1 + i / IMAGES
    z[0, 0, : height // 2, : width // 2, colour] = strength
    z[:, 0, height // 2 :, width // 2 :, animal] = 2 * strength
    z[..., 6] = z[..., 0] / 2
    z[1, ..., 7] = 0.5
    return z


def planted_sae(block: str, latents: int = LATENTS) -> SAE:
    """An orthogonal dictionary: it reads exactly what is planted. Latents 8 and up are dead."""
    eye = torch.eye(latents, WIDTH)
    peak = torch.tensor(
        [max(activations(i, block)[..., f].max() for i in range(IMAGES)) for f in range(latents)]
    )
    zero = torch.zeros(latents)
    return SAE(
        W_enc=eye, W_dec=eye, b_pre=torch.zeros(WIDTH), b_lat=zero, k=4, block=block, name=block,
        stats=Stats(mean_active=peak / 2, std_active=zero, max=peak, density=(peak > 0).float() / 10),
        update_std=1.0,
    )  # fmt: skip


def thumbnail(i: int) -> bytes:
    import io

    from PIL import Image

    data = io.BytesIO()
    Image.new("RGB", (8, 8), COLOURS[scene(i)[0]]).save(data, "WEBP")
    return data.getvalue()


def planted_store(path: Path, images: int = IMAGES) -> Store:
    schema = Schema(
        blocks={block: (*grid, WIDTH) for block, grid in GRIDS.items()},
        steps=STEPS, branches=("cond",), dtype="float32", shard_samples=16, provenance={"system": "planted"},
    )  # fmt: skip
    with Writer(path, schema, total=images) as writer:
        missing = writer.missing(Sample(i, caption(i), 100 + i) for i in range(images))
        while samples := list(islice(missing, 16)):
            some = [sample.index for sample in samples]
            rows = {block: np.stack([activations(i, block) for i in some]) for block in GRIDS}
            writer.append(samples, rows, [thumbnail(i) for i in some])
    return Store.open(path)
