"""Where parts of a pipeline run is looked up once a run, and hooks that offload are found all the same."""

from dataclasses import replace

import pytest
import torch
from diffusers.hooks import group_offloading

from unbox.models import load
from unbox.models.offload_lookup import looked_up_once
from unbox.models.system_table import SYSTEMS

LOOKUP = "_get_top_level_group_offload_hook"


@pytest.fixture
def own(tiny):
    """A model of this test's own."""
    trailing = {"timestep_spacing": "trailing"}
    return load(tiny, system=replace(SYSTEMS["sdxl-base"], size=64, scheduler_config=trailing))


def test_a_call_looks_through_the_modules_of_each_part_twice(own, monkeypatch):
    asked = []
    original = group_offloading._get_top_level_group_offload_hook

    def counted(module):
        asked.append(module)
        return original(module)

    monkeypatch.setattr(group_offloading, LOOKUP, counted)
    own.pipeline("a dog", num_inference_steps=2, output_type="latent")
    parts = {id(each): each for each in own.pipeline.components.values() if isinstance(each, torch.nn.Module)}
    assert len(asked) > len(parts), "this version of diffusers asks once itself: looked_up_once can go"
    asked.clear()
    own.generate("a dog", steps=2)
    of_parts = [id(module) for module in asked if id(module) in parts]
    assert sorted(of_parts) == sorted([*parts, *parts]), "once for its memory, once for its run"


def test_hooks_that_are_there_are_found_inside_and_new_ones_after(own):
    unet = own.pipeline.unet
    with looked_up_once(own.pipeline):
        assert not group_offloading._is_group_offload_enabled(unet)
    unet.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")
    assert group_offloading._is_group_offload_enabled(unet)
    with looked_up_once(own.pipeline), looked_up_once(own.pipeline):
        assert group_offloading._get_group_onload_device(unet) == torch.device("cpu")
        assert own.pipeline._execution_device == torch.device("cpu")
