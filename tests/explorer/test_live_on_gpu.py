"""Live frames on a card: recorded as CUDA graphs, and still the pictures of runs, to the bit."""

import numpy as np
import pytest

import unbox
from unbox.edit import Direction, Edits
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.live_sampler import LiveSampler

pytestmark = pytest.mark.gpu


def test_frames_of_a_graph_are_the_pictures_of_runs():
    model = unbox.load("shapes-turbo", device="cuda")
    recipe = Recipe(model.system.name, "a red circle", 3, 1, 0.0, model.size, model.size)
    sampler = LiveSampler(model, recipe)
    mask = np.zeros((64, 64), np.float32)
    mask[:30] = 1
    wide = {name: int(model.block(name).in_channels) for name in ("mid.0", "up.0.1")}
    early, late = (Direction(name, (1.0,) * width) for name, width in wide.items())
    half = Edits((late.add(0.7, where=mask),))
    several = [late.add(s) for s in (0.1, 0.5, -0.4, 0.0, 2.0)]
    every = [None, *(Edits((each,)) for each in several), half, half, half + early.add(0.3), None]
    every += [Edits((early.scale(2.0),)), *(half + early.add(s) for s in (0.1, 0.2))]
    seen = []
    for edits in every:
        frame = np.asarray(sampler.draw(edits).image)
        (image,) = model.generate(
            recipe.prompt, seed=3, steps=1, guidance=0.0, height=model.size, width=model.size, edits=edits
        )
        np.testing.assert_array_equal(frame, np.asarray(image))
        seen.append(frame.tobytes())
    assert len(set(seen)) > 7, "strengths change what is drawn"
    assert any(each is not None for each in sampler._unet._graphs.values())
