"""Whether each edited picture of a table is an artifact, beside its other figures.

`artifact`: by the density of CLIP (the metric `density`). `critic_artifact`: by the second critic of a world
whose own metrics are asked for. Thresholds are of the table's unedited pictures alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from unbox.errors import UnboxError
from unbox.experiments.clip_metric import ClipMetric, load_clip
from unbox.experiments.critics import Strangeness, critics
from unbox.experiments.picture_density import artifact_threshold, artifacts_among
from unbox.experiments.picture_tensors import opened
from unbox.json_types import JSON

#: The metric of all pictures together: which are artifacts.
DENSITY = "density"

#: Pictures opened at once.
AT_ONCE = 64


def add_artifacts(
    table: Sequence[dict[str, JSON]],
    out: Path,
    metrics: Sequence[str],
    clip_model: str | None,
    device: torch.device | str,
) -> None:
    """Add `strangeness` and `artifact` to every row of `table`, and `critic_...`, as the metrics ask for.

    A row's `image` and `unedited` are paths in the folder `out`. Raises UnboxError where one is missing.
    """
    if not table:
        return
    paths = [str(row[name]) for row in table for name in ("unedited", "image")]
    if missing := next((path for path in paths if not (out / path).is_file()), None):
        raise UnboxError(f"{out / missing} is missing; remove {out}, and its pictures are drawn again")
    for critic in critics().values():
        if critic.strangeness is not None and not set(critic.metrics).isdisjoint(metrics):
            add_by_critic(table, out, critic.strangeness)
    if DENSITY in metrics:
        assert clip_model is not None
        add_density(table, out, load_clip(clip_model, str(device)))


def add_density(table: Sequence[dict[str, JSON]], out: Path, clip: ClipMetric) -> None:
    """`strangeness` and `artifact` of every row: of the edited pictures among all unedited ones."""
    places = _unedited(table)
    edited, own = [str(row["image"]) for row in table], [places[str(row["unedited"])] for row in table]
    pictures, others = (clip.images_of([out / path for path in paths]) for paths in (edited, list(places)))
    _add(table, "", *artifacts_among(pictures, others, own))


def add_by_critic(table: Sequence[dict[str, JSON]], out: Path, strangeness: Strangeness) -> None:
    """`critic_strangeness` and `critic_artifact` of every row."""

    def of(paths: Sequence[str]) -> np.ndarray:
        parts = [paths[start : start + AT_ONCE] for start in range(0, len(paths), AT_ONCE)]
        return np.concatenate([strangeness([opened(out / path) for path in part]) for part in parts])

    usual, found = of(list(_unedited(table))), of([str(row["image"]) for row in table])
    _add(table, "critic_", found, found > artifact_threshold(usual))


def _unedited(table: Sequence[Mapping[str, JSON]]) -> dict[str, int]:
    """The unedited pictures, each once, and their places."""
    paths = dict.fromkeys(str(row["unedited"]) for row in table)
    return {path: place for place, path in enumerate(paths)}


def _add(
    table: Sequence[dict[str, JSON]], prefix: str, strangeness: np.ndarray, artifacts: np.ndarray
) -> None:
    for row, strange, artifact in zip(table, strangeness, artifacts, strict=True):
        row |= {f"{prefix}strangeness": float(strange), f"{prefix}artifact": float(artifact)}
