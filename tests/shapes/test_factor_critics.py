"""Two networks that share nothing read real renders of 128 px, and agree with the scenes and each other."""

import numpy as np
import pytest
import torch
from PIL import Image

from unbox.shapes import FACTORS, sample_scenes
from unbox.shapes.detector import HEADS, accuracy
from unbox.shapes.factor_critics import CRITICS, load_critic
from unbox.shapes.render_torch import draw
from unbox.shapes.scene_table import SceneTable


@pytest.fixture(scope="module")
def scenes():
    """Of looks that neither was trained on."""
    return sample_scenes(96, seed=902, split="heldout")


@pytest.fixture(scope="module")
def pictures(scenes):
    """128 px, as arrays."""
    drawn = draw(SceneTable.of(scenes), 128).pictures
    return [np.asarray(p) for p in (drawn * 255).round().byte().permute(0, 2, 3, 1).numpy()]


@pytest.mark.parametrize("name", CRITICS)
def test_every_factor_of_real_renders_is_read(name, scenes, pictures):
    found = accuracy(load_critic(name), pictures, scenes)
    assert set(found) == {*FACTORS, "all"}
    assert min(found.values()) >= 0.97
    assert found["all"] >= 0.99


def test_they_share_no_tensor():
    one, two = (load_critic(name).state_dict() for name in CRITICS)
    shapes = {tuple(t.shape) for t in one.values()}
    assert not any(
        tuple(t.shape) in shapes and torch.equal(t, o)
        for t in two.values() if t.ndim > 1 for o in one.values() if o.shape == t.shape
    )  # fmt: skip


def test_pictures_of_another_size_are_resampled(pictures):
    critic = load_critic("patches")
    assert critic.side == 128
    large = Image.fromarray(pictures[0]).resize((256, 256), Image.Resampling.NEAREST)
    one, two = (critic.probabilities([picture]) for picture in (pictures[0], large))
    assert all(np.allclose(one[name], two[name], atol=1e-4) for name in HEADS)
