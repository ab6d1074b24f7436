"""What a dry run says of memory, against what a real step allocates."""

import pytest
import torch

from tests.models.tiny import tiny_pipeline
from unbox.models import load
from unbox.models.real_size import sdxl_unet
from unbox.recipes.sdxl.sdxl_cost import fake_memory, state_bytes, training_step
from unbox.recipes.sdxl.sdxl_network import prepared
from unbox.recipes.sdxl.sdxl_settings import SdxlSettings
from unbox.recipes.sdxl.train_sdxl import make_role

LATENT, TEXT = (4, 32, 32), (77, 64, 32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model"), device="cpu")


def allocated(step):
    """Most bytes allocated in a call beyond those before it, by the allocator's own events."""
    with torch.autograd.profiler.profile(profile_memory=True) as profiler:
        step()
    events = sorted(profiler.kineto_results.events(), key=lambda event: event.start_ns())
    now = peak = 0
    for event in events:
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


SETTINGS = {
    "a LoRA": {"lora_rank": 4},
    "a LoRA, activations computed again": {"mixed_precision": "bf16", "gradient_checkpointing": True},
    "the whole UNet": {"full": True, "ema": 0.9},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_memory_of_a_step_is_what_one_allocates(model, name):
    settings = SdxlSettings(**{"mixed_precision": "no", "batch_size": 2, **SETTINGS[name]})
    said, _ = fake_memory(model, settings, LATENT, TEXT)
    unet = type(model.unet).from_config(model.pipeline.unet.config)
    role = make_role(unet, settings)
    role.start()
    step = training_step(model, role, settings, LATENT, TEXT, torch.device("cpu"))
    step()
    states = state_bytes(unet, settings)
    standing = (
        sum(p.numel() * p.element_size() for p in unet.parameters()) + states.checkpoint - states.weights
    )
    assert said.standing == pytest.approx(standing, rel=0.02)
    assert said.peak - said.standing == pytest.approx(allocated(step), rel=0.1)


def test_states_of_sdxl_by_arithmetic():
    """Rank 16 on the attention of SDXL: 23,224,320 parameters, 93 MB as a file, 279 MB as a checkpoint."""
    with torch.device("meta"):
        lora, whole = sdxl_unet(), sdxl_unet()
        settings, full = SdxlSettings(lora_rank=16), SdxlSettings(full=True)
        prepared(lora, settings)
        prepared(whole, full)
    # rank x (in + out) of eight layers: two attentions, in one of which keys and values are of the text
    by_hand = 16 * sum(
        depth * blocks * (6 * 2 * width + 2 * (2048 + width))
        for width, depth, blocks in ((640, 2, 5), (1280, 10, 6))
    )
    trained = state_bytes(lora, settings)
    assert trained.weights == 4 * by_hand
    assert trained.checkpoint == 12 * by_hand + 4 * 2 * 8 * (2 * 5 + 10 * 6)
    assert state_bytes(whole, full).weights == 4 * 2_567_463_684
    assert state_bytes(whole, full).checkpoint == pytest.approx(30.8e9, rel=0.002)
