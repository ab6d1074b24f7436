"""The pictures in which a feature is most active, with where it is."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from unbox.ground_truth.demo.feature_search import Feature, maps
from unbox.ground_truth.demo.picture_uris import heated, uri

#: How many pictures of each feature are shown.
SHOWN = 6


def top_examples(store: Any, saes: Mapping[str, Any], features: Sequence[Feature]) -> list[dict[str, Any]]:
    """For each feature: the pictures of a store in which its peak is highest, plain and under its map."""
    found: dict[Feature, np.ndarray] = {}
    for block in dict.fromkeys(block for block, _ in features):
        wanted = [i for b, i in features if b == block]
        found |= {(block, i): m for i, m in zip(wanted, maps(saes[block], store[block], wanted), strict=True)}
    return [shown(store, feature, found[feature]) for feature in features]


def shown(store: Any, feature: Feature, of: np.ndarray) -> dict[str, Any]:
    """Top examples of a feature from its maps (pictures, y, x), under one scale: JSON for the report."""
    peaks = of.max((1, 2))
    best = [int(i) for i in np.argsort(-peaks)[:SHOWN]]
    plain = {i: Image.open(io.BytesIO(store.thumbnail(i))).convert("RGB") for i in best}
    return {
        "name": f"{feature[0]}/{feature[1]}",
        "active": float((of > 0).mean()),
        "pictures": [
            {
                "plain": uri(plain[i]),
                "heat": uri(heated(plain[i], of[i], float(peaks[best[0]]))),
                "caption": store.samples[i].prompt,
            }
            for i in best
        ],
    }
