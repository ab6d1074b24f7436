"""What `unbox models NAME --plan` says a run takes, beside the tensors that live at once in real networks.

SDXL at its real size as fake tensors: each op is counted, none is computed.
"""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.models.memory_count import MemoryCount
from tests.models.tiny import tiny_pipeline
from unbox.capture.keeper import IN_MEMORY
from unbox.capture.memory_plan import memory_plan, networks_of
from unbox.capture.planned_run import PlannedRun
from unbox.cli.main import main
from unbox.errors import UnboxError
from unbox.models import SYSTEMS, load
from unbox.models.activation_memory import unet_bytes, vae_bytes
from unbox.models.bounded_vae import bounded
from unbox.models.real_size import refiner_unet, sdxl_unet, sdxl_vae


def counted_unet(build, rows, side, dtype):
    """Peak of a UNet's forward at real size, and its configuration."""
    before = torch.get_default_dtype()
    with FakeTensorMode(), torch.no_grad():
        torch.set_default_dtype(dtype)
        try:
            unet = build().eval()
        finally:
            torch.set_default_dtype(before)
        context = unet.config.cross_attention_dim
        pooled = unet.config.projection_class_embeddings_input_dim - 256 * (6 if context == 2048 else 5)
        given = {
            "encoder_hidden_states": torch.empty(rows, 77, context, dtype=dtype),
            "added_cond_kwargs": {
                "text_embeds": torch.empty(rows, pooled, dtype=dtype),
                "time_ids": torch.empty(rows, 6 if context == 2048 else 5, dtype=dtype),
            },
        }
        x = torch.empty(rows, 4, side // 8, side // 8, dtype=dtype)
        with MemoryCount() as counted:
            unet(x, torch.tensor(500), **given)
    return counted.peak, dict(unet.config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "rows", "side"),
    [(sdxl_unet, 1, 512), (sdxl_unet, 2, 1024), (sdxl_unet, 16, 1024), (refiner_unet, 4, 1024)],
)
def test_the_unets_tensors_are_as_planned(build, rows, side):
    measured, config = counted_unet(build, rows, side, torch.float16)
    planned = unet_bytes(config, rows, side // 8, side // 8, 2)
    assert planned == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize(
    ("batch", "side"), [(1, 1024), (8, 512), pytest.param(2, 2048, marks=pytest.mark.slow)]
)
def test_the_vaes_tensors_are_as_planned(batch, side):
    with FakeTensorMode(), torch.no_grad():
        vae = bounded(sdxl_vae())
        with MemoryCount() as counted:
            vae.decode(torch.empty(batch, 4, side // 8, side // 8))
    planned = vae_bytes(dict(vae.config), batch, side, side, 4)
    assert planned == pytest.approx(counted.peak, rel=0.15)


def test_sdxl_at_1024_in_batches_of_eight_fits_24_gb():
    """float16, guidance: weights, the UNet's sixteen rows, one picture at a time in the VAE."""
    plan = memory_plan(SYSTEMS["sdxl-base"], networks_of(SYSTEMS["sdxl-base"]), PlannedRun())
    assert plan.weights == {
        "unet": 2 * 2_567_463_684,
        "vae": 4 * 83_653_863,
        "text_encoder": 2 * 123_060_480,
        "text_encoder_2": 2 * 694_659_840,
    }
    assert plan.on_card < 24e9
    assert plan.pictures_in_work == 1
    ensemble = SYSTEMS["sdxl-base+refiner"]
    both = memory_plan(ensemble, networks_of(ensemble), PlannedRun(batch=2))
    assert both.weights["refiner"] == 2 * 2_259_526_660
    assert both.on_card < 18e9


def test_offload_keeps_one_network_on_the_card():
    networks, system = networks_of(SYSTEMS["sdxl-base"]), SYSTEMS["sdxl-base"]
    whole, model, sequential = (
        memory_plan(system, networks, PlannedRun(offload=offload))
        for offload in (None, "model", "sequential")
    )
    rest = sum(whole.weights.values()) - whole.weights["unet"]
    assert whole.phases["sampling"] - model.phases["sampling"] == rest
    assert sequential.phases["sampling"] == sequential.largest_layer + sequential.sampling
    assert whole.in_memory == model.in_memory
    alone = memory_plan(system, networks, PlannedRun(card=False))
    assert (alone.on_card, alone.workspace) == (0, 0)
    assert alone.in_memory > max(alone.phases.values())


def test_recording_and_saes_are_counted_by_their_shapes():
    networks, system = networks_of(SYSTEMS["sdxl-turbo"]), SYSTEMS["sdxl-turbo"]
    given = PlannedRun(batch=4, steps=4, blocks=("mid.0", "down.1.0"), latents=1000)
    plan = memory_plan(system, networks, given)
    values = 4 * (16 * 16 * 1280 + 32 * 32 * 640)
    assert plan.recording == IN_MEMORY * 4 * values * 2
    saes = sum(4 * (2 * 1000 * width + 1000 + width) for width in (1280, 640))
    assert plan.editing == saes + 4 * 32 * 32 * 1000 * 4
    with pytest.raises(UnboxError, match=r"no block 'up.2.0'; it has down.1.0"):
        memory_plan(system, networks, PlannedRun(blocks=("up.2.0",)))


def test_a_tiny_run_takes_what_is_planned(tmp_path):
    """Real tensors of whole runs: the UNet's phase, and the VAE's."""
    folder = tiny_pipeline(tmp_path / "tiny")
    trailing = {"timestep_spacing": "trailing"}
    system = replace(SYSTEMS["sdxl-base"], size=64, scheduler_config=trailing)
    model, networks = load(folder, system=system, device="cpu"), networks_of(system, folder)
    assert networks.parameters["unet"] == sum(p.numel() for p in model.unet.parameters())
    for output in ("latent", "np"):
        plan = memory_plan(system, networks, PlannedRun(batch=2, card=False, guidance=5.0))
        with MemoryCount() as counted:
            model.generate(["a cat"] * 2, seed=1, steps=2, output=output, batch_size=2)
        planned = plan.sampling if output == "latent" else max(plan.sampling, plan.decoding)
        # Beside it are latents and texts, which at this size count; at real size they are a thousandth.
        assert planned <= counted.peak <= 1.5 * planned


def test_the_plan_is_printed(capsys, tmp_path):
    assert main(["models", "shapes-turbo", "--plan", "--batch", "2", "--blocks", "up.0.1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "shapes-turbo, float16: 2 images of 128 x 128 pixels at a time, guidance 0, 4 steps"
    )
    assert "peak on the card: " in said
    folder = tiny_pipeline(tmp_path / "tiny")
    assert main(["models", str(folder), "--plan", "--no-card"]) == 0
    assert "tiny, float32: 8 images of 64 x 64" in capsys.readouterr().out
    assert main(["models", "--plan"]) == 2
    assert "--plan is of systems that are named" in capsys.readouterr().err
    assert main(["models", "shapes-turbo", "--batch", "2"]) == 2
    assert "--batch is of --plan" in capsys.readouterr().err
