"""The density of pictures against brute force, and its threshold by unedited pictures alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from unbox.errors import UnboxError
from unbox.experiments.artifact_columns import add_density
from unbox.experiments.clip_metric import ClipMetric
from unbox.experiments.picture_density import artifacts_among, strangeness_among

DRAW = torch.Generator().manual_seed(0)


def vectors(count, about=None, spread=1.0):
    x = spread * torch.randn(count, 8, generator=DRAW) + (0 if about is None else about)
    return x / x.norm(dim=1, keepdim=True)


def test_strangeness_is_the_mean_distance_to_the_nearest_but_its_own():
    unedited, edited, own = vectors(20), vectors(1500), np.arange(1500) % 20
    expected = []
    for vector, mine in zip(edited.numpy(), own, strict=True):
        distances = [1 - vector @ other for i, other in enumerate(unedited.numpy()) if i != mine]
        expected.append(np.mean(sorted(distances)[:5]))
    np.testing.assert_allclose(strangeness_among(edited, unedited, own), expected, atol=1e-5)


def test_pictures_far_from_all_unedited_ones_are_artifacts():
    """An edit that changes nothing leaves 5 % of artifacts, at most, and noise nothing else."""
    about = torch.ones(8)
    unedited = vectors(200, about, 0.1)
    _, same = artifacts_among(unedited, unedited, range(200))
    assert 0.03 <= same.mean() <= 0.05
    far, artifacts = artifacts_among(vectors(50, -about, 0.1), unedited, [0] * 50)
    assert artifacts.all()
    assert (far > 1).all()
    _, near = artifacts_among(vectors(50, about, 0.05), unedited, [0] * 50)
    assert near.mean() < 0.05


def test_too_few_unedited_pictures_are_refused():
    with pytest.raises(UnboxError, match="beside a picture's own; there are 5: take more prompts or seeds"):
        artifacts_among(vectors(3), vectors(5), [0, 1, 2])


def test_every_row_of_a_sweep_is_told_whether_its_picture_is_an_artifact(tmp_path):
    """Pictures by their colours; the last edited one is far from all."""
    draw = np.random.default_rng(0)
    table, colours = [], draw.uniform(200, 230, (40, 3))
    for number, colour in enumerate(colours):
        for kind, shown in (("unedited", colour), ("image", colour + 1 if number < 39 else (0, 0, 255))):
            Image.fromarray(np.full((4, 4, 3), shown, np.uint8)).save(tmp_path / f"{kind}-{number}.png")
        table.append({"unedited": f"unedited-{number}.png", "image": f"image-{number}.png"})

    def images(pictures):
        means = torch.tensor(np.array([np.asarray(p, float).mean((0, 1)) for p in pictures]))
        return torch.nn.functional.normalize(means, dim=-1)

    add_density(table, tmp_path, ClipMetric(images, lambda texts: torch.zeros(len(texts), 3)))
    assert table[-1]["artifact"] == 1
    assert sum(row["artifact"] for row in table[:-1]) <= 2
    assert all(row["strangeness"] < table[-1]["strangeness"] for row in table[:-1])
