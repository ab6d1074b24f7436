"""Artifacts by a critic of a world, beside the figures of a table."""

import numpy as np
import pytest
from PIL import Image

from unbox.errors import UnboxError
from unbox.experiments.artifact_columns import add_artifacts, add_by_critic
from unbox.experiments.critics import critics


def save(path, level):
    Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(path)
    return path.name


@pytest.fixture
def table(tmp_path):
    """150 edited pictures of 50 unedited ones, by their levels of grey."""
    levels = np.random.default_rng(0).integers(100, 150, 50)
    for i, level in enumerate(levels):
        save(tmp_path / f"before-{i}.png", level)
    edited = np.random.default_rng(1).integers(60, 220, 150)
    rows = [
        {"image": save(tmp_path / f"after-{i}.png", level), "unedited": f"before-{i % 50}.png"}
        for i, level in enumerate(edited)
    ]
    return rows, levels, edited


def test_an_artifact_is_stranger_than_nineteen_of_twenty_unedited_pictures(tmp_path, table):
    rows, levels, edited = table
    add_by_critic(rows, tmp_path, lambda images: np.array([float(np.asarray(i).mean()) for i in images]))
    limit = np.sort(levels)[int(np.ceil(0.95 * 49))]
    assert [row["critic_artifact"] for row in rows] == (edited > limit).astype(float).tolist()
    assert [row["critic_strangeness"] for row in rows] == edited.astype(float).tolist()
    assert 0 < np.mean([row["critic_artifact"] for row in rows]) < 1


def test_they_come_with_the_metrics_of_the_critics_world_and_no_others(tmp_path, table):
    rows, *_ = table
    add_artifacts(rows, tmp_path, ["pixels"], None, "cpu")
    assert set(rows[0]) == {"image", "unedited"}
    add_artifacts(rows[:2], tmp_path, ["pixels", "factors"], None, "cpu")
    assert set(rows[0]) == {"image", "unedited", "critic_strangeness", "critic_artifact"}
    images = [Image.open(tmp_path / row["image"]) for row in rows[:2]]
    shapes = critics()["shapes"]
    assert rows[1]["critic_strangeness"] == pytest.approx(shapes.strangeness(images)[1])
    add_artifacts([], tmp_path, ["factors"], None, "cpu")


def test_a_picture_that_is_missing_is_named(tmp_path, table):
    rows, *_ = table
    (tmp_path / "after-7.png").unlink()
    with pytest.raises(UnboxError, match=r"after-7\.png is missing"):
        add_artifacts(rows, tmp_path, ["factors"], None, "cpu")
