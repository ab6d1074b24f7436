"""The pictures in which a feature is most active, with where it is."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from activation_store import Store
from unbox.ground_truth.demo.demo_plan import QUALITY
from unbox.ground_truth.demo.feature_search import Latent, maps
from unbox.image_uri import image_uri
from unbox.sae import SAE

#: How many pictures of each feature are shown.
SHOWN = 6

#: The heat colour (RGB) and how opaque it is at a feature's peak.
HEAT, OPAQUE = (255, 92, 24), 0.85


def top_examples(store: Store, saes: Mapping[str, SAE], features: Sequence[Latent]) -> list[dict[str, Any]]:
    """For each feature: the pictures of a store in which its peak is highest, plain and under its map."""
    found: dict[Latent, np.ndarray] = {}
    for block in dict.fromkeys(block for block, _ in features):
        wanted = [i for b, i in features if b == block]
        found |= {(block, i): m for i, m in zip(wanted, maps(saes[block], store[block], wanted), strict=True)}
    return [shown(store, feature, found[feature]) for feature in features]


def shown(store: Store, feature: Latent, of: np.ndarray) -> dict[str, Any]:
    """Top examples of a feature from its maps (pictures, y, x), under one scale: JSON for the report."""
    peaks = of.max((1, 2))
    best = [int(i) for i in np.argsort(-peaks)[:SHOWN]]
    plain = {i: Image.open(io.BytesIO(store.thumbnail(i))).convert("RGB") for i in best}
    return {
        "name": f"{feature[0]}/{feature[1]}",
        "active": float((of > 0).mean()),
        "pictures": [
            {
                "plain": image_uri(plain[i], quality=QUALITY),
                "heat": image_uri(heated(plain[i], of[i], float(peaks[best[0]])), quality=QUALITY),
                "caption": store.samples[i].prompt,
            }
            for i in best
        ],
    }


def heated(image: Image.Image, heat: np.ndarray, peak: float) -> Image.Image:
    """The picture, greyed, under a map (y, x) of activations; `peak` is the scale of a feature's maps."""
    scale = np.clip(heat / max(peak, 1e-9), 0, 1).astype(np.float32)
    cover = Image.fromarray((255 * OPAQUE * scale).astype(np.uint8)).resize(
        image.size, Image.Resampling.BICUBIC
    )
    grey = image.convert("L").convert("RGB")
    return Image.composite(Image.new("RGB", image.size, HEAT), grey, cover)
