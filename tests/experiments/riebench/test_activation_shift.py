"""Neurons and whole updates are recorded and shifted inside a run, at their steps, and hooks come off."""

import numpy as np
import pytest
import torch

from unbox import record
from unbox.experiments.riebench.activation_shift import ActivationShift, Shift
from unbox.experiments.riebench.neuron_records import neuron_layers, recorded_neurons
from unbox.site import block_path


def draw(model, **given):
    return model.generate("a cat", seed=1, steps=2, guidance=0.0, output="latent", **given)[0]


def test_hidden_units_of_every_layer_are_recorded_by_image_and_step(tiny):
    layers = neuron_layers(tiny, ["mid.0", "down.2.1"])
    assert list(layers) == [
        f"{block_path(block)}.transformer_blocks.{n}.ff.net.0"
        for block in ("mid.0", "down.2.1")
        for n in range(3)
    ]
    seen = []
    path = next(iter(layers))
    handle = tiny.unet.get_submodule(path).register_forward_hook(lambda m, a, output: seen.append(output[0]))
    with recorded_neurons(tiny, ["mid.0", "down.2.1"]) as found:
        draw(tiny)
        tiny.generate("a dog", seed=2, steps=2, guidance=0.0, output="latent")
    handle.remove()
    assert set(found) == {0, 1}
    assert set(found[0]) == set(layers)
    for image in (0, 1):
        assert torch.equal(found[image][path], torch.stack(seen[2 * image : 2 * image + 2]))
    assert found[0][path].shape == (2, 64, 4 * 128)


def test_a_shift_adds_to_chosen_channels_at_its_steps(tiny):
    path = next(iter(neuron_layers(tiny, ["mid.0"])))
    added = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    hook = ActivationShift({path: Shift({1: added}, torch.tensor([5, 9, 100]))})
    with recorded_neurons(tiny, ["mid.0"]) as plain:
        before = draw(tiny)
    with recorded_neurons(tiny, ["mid.0"]) as shifted:  # goes on first, and so records what was computed
        draw(tiny, hooks=[hook])
    assert torch.equal(plain[0][path], shifted[0][path])
    outputs = []
    with hook.attach(tiny, None):
        handle = tiny.unet.get_submodule(path).register_forward_hook(
            lambda m, a, o: outputs.append(o[0].clone())
        )
        after = draw(tiny)
        handle.remove()
    expected = plain[0][path].clone()
    expected[1][:, [5, 9, 100]] += added
    assert torch.allclose(torch.stack(outputs), expected, atol=1e-6)
    assert not torch.equal(before, after)
    assert torch.equal(draw(tiny), before)


def test_the_difference_of_two_runs_as_a_shift_of_a_block_gives_the_other_update(tiny):
    with record(tiny, ["mid.0"]) as tape:
        draw(tiny)
        tiny.generate("a dog", seed=1, steps=2, guidance=0.0, output="latent")
    updates = tape.read("mid.0", "update", "cond")
    difference = (updates[1] - updates[0]).flatten(1, 2)
    hook = ActivationShift({block_path("mid.0"): Shift({0: difference[0]})})
    with hook.attach(tiny, None), record(tiny, ["mid.0"]) as shifted:
        draw(tiny)
    assert torch.allclose(shifted.read("mid.0", "update", "cond")[0, 0], updates[1, 0], atol=1e-4)
    other = tiny.generate(["a cat"] * 2, seed=1, steps=2, guidance=0.0, edits=[None, hook], output="latent")
    assert np.allclose(other[0], draw(tiny), atol=1e-4)
    assert not np.allclose(other[1], other[0], atol=1e-3)


@pytest.mark.parametrize("attached", ["steps", "rows"])
def test_nothing_is_shifted_at_other_steps_or_images(tiny, attached):
    shift = Shift({7 if attached == "steps" else 0: torch.ones(64, 128)})
    hook = ActivationShift({block_path("mid.0"): shift})
    with hook.attach(tiny, [3] if attached == "rows" else None):
        changed = draw(tiny)
    assert torch.equal(changed, draw(tiny))
