"""Frozen readers of pictures: their maps and the reward that is learned from, with gradients."""

import torch

from unbox.recipes.systems.picture_networks import DetectorReward, load_projector
from unbox.training.data.image_index import IndexRow
from unbox.training.data.shapes_images import ShapesImages


def test_the_projector_of_shapes_has_the_maps_that_it_says():
    features = load_projector("detector")
    maps = features(torch.zeros(2, 3, 64, 64))
    assert [each.shape[1] for each in maps] == features.channels
    assert [each.shape[-1] for each in maps] == [64, 32, 16, 8]  # of the 128 px that it reads


def test_the_reward_is_larger_for_the_scene_that_is_asked_for_and_can_be_learned():
    source = ShapesImages(4, 128)
    images = list(source.images())
    pictures = torch.stack(
        [torch.tensor(list(source.picture(i).tobytes()), dtype=torch.float32) for i in images]
    )
    pictures = (pictures.view(4, 128, 128, 3).permute(0, 3, 1, 2) / 127.5 - 1).requires_grad_()
    rows = [IndexRow(i.key, i.caption, 0, 0, 128, 128, i.place) for i in images]
    reward = DetectorReward(source)
    right = reward(pictures, rows)
    assert float(right.detach().min()) > -0.05
    assert (right > reward(pictures, rows[1:] + rows[:1]) + 1).all()
    right.sum().backward()
    assert float(pictures.grad.abs().max()) > 0
