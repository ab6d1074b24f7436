"""An image inverted into a run comes back, is read at the run's steps, and moves by its edits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from tests.edits.dictionaries import random_sae
from tests.models.tiny import tiny_pipeline, tiny_refiner, tiny_unet
from unbox import record
from unbox.edit import Block
from unbox.edits.inversion import decoded, encoded, invert, psnr
from unbox.errors import UnboxError
from unbox.models import SYSTEMS, Model, load

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
EDIT = random_sae("up.0.1", width=128, latents=64, k=4).feature(3).add(60, unit="absolute")


@pytest.mark.parametrize("guidance", [0.0, 3.0])
@pytest.mark.parametrize(("steps", "start"), [(1, 0), (4, 0), (4, 2)])
def test_the_run_gives_the_latents_back(tiny, steps, start, guidance):
    inversion = invert(tiny, NOISE, "a cat", steps=steps, start=start, guidance=guidance)
    assert torch.equal(inversion.states[-1:], encoded(tiny, NOISE))
    fidelity = inversion.fidelity
    assert fidelity["run"] == pytest.approx(fidelity["vae"], abs=0.05)
    assert fidelity["model"] < fidelity["run"]


def test_identity_edits_change_nothing_and_edits_act_on_the_image(tiny):
    inversion = invert(tiny, NOISE, "a cat", steps=2, start=1, guidance=0.0)
    plain = np.asarray(inversion.draw())
    assert np.array_equal(np.asarray(inversion.draw(Block("mid.0").scale(1))), plain)
    assert not np.array_equal(np.asarray(inversion.draw(EDIT)), plain)
    assert np.array_equal(np.asarray(inversion.draw()), plain)
    assert tiny.clock is None


def test_updates_are_recorded_at_the_steps_of_the_run(tiny):
    inversion = invert(tiny, NOISE, "a cat", steps=4, start=1, guidance=3.0)
    with record(tiny, ["mid.0"]) as tape:
        inversion.draw()
    assert tape.steps == (1, 2, 3)
    assert tape.branches == ("cond", "uncond")
    assert tape["mid.0"].shape[:3] == (1, 3, 2)


def test_the_same_seed_gives_the_same_inversion_and_size_is_free(tiny):
    wide = NOISE.resize((96, 64))
    first, again = (invert(tiny, wide, steps=2, seed=4) for _ in range(2))
    assert torch.equal(first.states, again.states)
    assert first.draw().size == (96, 64)
    assert not torch.equal(first.states, invert(tiny, wide, steps=2, seed=5).states)


@pytest.mark.parametrize("shifted", [False, True])
def test_latents_are_those_that_the_pipeline_decodes(tiny_folder, shifted):
    """The pipeline's own decoder, and its encoder's moments in numpy, are the truth."""
    from unbox import load

    model, image = load(str(tiny_folder)), NOISE
    config = {"latents_mean": [0.3, -0.1, 0.2, -0.4], "latents_std": [0.5, 1.5, 0.8, 1.2]} if shifted else {}
    model.pipeline.vae.register_to_config(**config)
    call = {"seed": 3, "steps": 2, "guidance": 0.0, "height": 64, "width": 64}
    (latents,), (wanted,) = (model.generate("a cat", **call, output=output) for output in ("latent", "pil"))
    assert np.array_equal(np.asarray(decoded(model, latents[None])), np.asarray(wanted))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        raw = model.pipeline.vae.encode(pixels).latent_dist.mode().numpy()
    mean, deviation = (
        config.get(name, default) for name, default in (("latents_mean", 0), ("latents_std", 1))
    )
    shape = (1, -1, 1, 1)
    truth = (raw - np.reshape(mean, shape)) / np.reshape(deviation, shape) * 0.13025
    assert np.allclose(encoded(model, image).numpy(), truth, atol=1e-5)


def test_bundled_weights_hold_a_picture_of_their_world():
    """The model alone, from the noised picture of step 2, draws nearly what the VAE keeps of it."""
    import unbox
    from unbox.shapes import Scene, prompts, render

    model = unbox.load("shapes-turbo")
    told = prompts(1, seed=5, split="heldout", full=True, pairs=0.0)[0]
    picture = Image.fromarray(render(Scene.from_json(told.meta["scene"])))
    right = invert(model, picture, told.text, steps=4, start=2).fidelity
    assert right["vae"] > 28
    assert right["run"] == pytest.approx(right["vae"], abs=0.5)
    assert right["model"] > 15


def test_latents_are_the_pipelines_in_both_directions():
    """The bundled VAE's latents have means and deviations of their own, which the UNet's have not."""
    import unbox

    model = unbox.load("shapes-turbo", device="cpu")
    call = {"seed": 4, "steps": 2, "guidance": 0.0}
    (latents,) = model.generate("a red circle", output="latent", **call)
    (image,) = model.generate("a red circle", **call)
    assert np.array_equal(np.asarray(decoded(model, latents[None])), np.asarray(image))
    vae = model.pipeline.vae
    mean, std = (torch.tensor(getattr(vae.config, f"latents_{name}")) for name in ("mean", "std"))
    with torch.no_grad():
        own = vae.encode(model.pipeline.image_processor.preprocess(image)).latent_dist.mode()[0]
    by_hand = (own - mean[:, None, None]) / std[:, None, None]  # its scaling factor is 1
    torch.testing.assert_close(encoded(model, image)[0], by_hand)
    assert float((encoded(model, image)[0] - latents).std()) < 0.5 * float(latents.std())


@pytest.fixture(scope="module")
def ensemble(tiny, tmp_path_factory):
    """A base for four of five steps and its refiner for the last, with epsilon and without guidance."""
    base = tiny_pipeline(tmp_path_factory.mktemp("base"))
    refiner = tiny_refiner(tmp_path_factory.mktemp("refiner"))
    trailing = {"timestep_spacing": "trailing"}
    row = replace(SYSTEMS["sdxl-base+refiner"], refiner=str(refiner), size=64, scheduler_config=trailing)
    return load(base, system=row)


@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_an_ensemble_is_inverted_by_both_of_its_models(ensemble, guidance):
    ran = []
    hooks = [
        pipeline.unet.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        for name, pipeline in zip(("base", "refiner"), ensemble.pipelines, strict=True)
    ]
    try:
        inversion = invert(ensemble, NOISE, "a cat", steps=5, guidance=guidance)
    finally:
        for hook in hooks:
            hook.remove()
    assert ran == ["base"] * 4 + ["refiner"]
    fidelity = inversion.fidelity
    assert fidelity["run"] == pytest.approx(fidelity["vae"], abs=0.05)
    with record(ensemble, ["mid.0", "refiner.mid.0"]) as tape:
        plain = inversion.draw()
    assert (tape["mid.0"].shape[1], tape["refiner.mid.0"].shape[1]) == (4, 1)
    moved = inversion.draw(Block("up.0.1").ablate())
    assert not np.array_equal(np.asarray(moved), np.asarray(plain))


def test_a_refiner_is_inverted_and_told_of_its_score(tmp_path):
    """Its sixth time id is a score; steps before those that it was trained on are warned of."""
    row = replace(SYSTEMS["sdxl-refiner"], size=64, scheduler_config={"timestep_spacing": "trailing"})
    model, seen = load(tiny_refiner(tmp_path / "refiner"), system=row), []
    hook = model.unet.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["added_cond_kwargs"]["time_ids"].tolist()),
        with_kwargs=True,
    )
    with pytest.warns(UserWarning, match="was not trained on the noise before step 7 of 10"):
        invert(model, NOISE, "a cat", steps=10, start=6, guidance=3.0)
    seen.clear()
    inversion = invert(model, NOISE, "a cat", steps=10, start=8, guidance=3.0)
    hook.remove()
    assert seen == [[[64, 64, 0, 0, 2.5], [64, 64, 0, 0, 6.0]]] * 2
    assert inversion.fidelity["run"] == pytest.approx(inversion.fidelity["vae"], abs=0.05)


def test_a_large_canvas_begins_at_its_own_sigma(tmp_path):
    model = load(
        tiny_pipeline(tmp_path / "v", prediction_type="v_prediction"),
        system=replace(SYSTEMS["novelai-v3"], size=64),
    )
    large = invert(model, NOISE.resize((128, 128)), steps=2, guidance=0.0)
    small = invert(model, NOISE, steps=2, guidance=0.0)
    assert float(large.states[0].std() / small.states[0].std()) == pytest.approx(2, rel=0.05)
    assert float(large.draw().size[0]) == 128


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 2}, "start = 2: should be a step: 0 to 1"),
        ({"start": -1}, "start = -1: should be at least 0"),
        ({"steps": 0}, "steps = 0: should be at least 1"),
        ({"steps": 10**9}, "steps = 1000000000: should be at most 1,000"),
        ({"guidance": float("nan")}, "guidance = nan: should be a finite number"),
        ({"seed": 2**64}, "seed = 18446744073709551616: should be less than"),
        ({"prompt": None}, "prompt = None: should be a text"),
        ({"image": "x.png"}, "image = 'x.png': should be a picture"),
        (
            {"image": NOISE.resize((63, 64))},
            "image = '63 x 64 pixels': should have sides that are multiples of 8",
        ),
    ],
)
def test_what_cannot_be_inverted_is_refused(tiny, change, message):
    with pytest.raises(UnboxError, match=f"^invert: {message}"):
        invert(tiny, **{"image": NOISE, "prompt": "", "steps": 2, **change})


def test_a_unet_that_reads_its_guidance_is_refused(tiny):
    """Its latents would be those of another guidance: diffusers hands the UNet a `timestep_cond`."""
    parts = {**tiny.pipeline.components, "unet": tiny_unet(seed=3, guidance_numbers=16)}
    model = Model(StableDiffusionXLPipeline(**parts, add_watermarker=False), SYSTEMS["lcm-sdxl"])
    with pytest.raises(UnboxError, match=r"^invert: model = 'lcm-sdxl': should be a system that reads no"):
        invert(model, NOISE, steps=2)


@pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_decoded_as_the_pipeline_does(tiny_folder, dtype):
    """In float16 the VAE is lifted for as long as it decodes; in bfloat16 all is computed in it."""
    model = load(str(tiny_folder), dtype=dtype)
    vae = model.pipeline.vae
    vae.register_to_config(
        force_upcast=dtype == "float16",
        latents_mean=[0.3, -0.2, 0.1, 0.0],
        latents_std=[0.4, 1.4, 0.9, 2.0],
    )
    (latents,) = model.generate("a cat", seed=3, steps=2, output="latent")
    (image,) = model.generate("a cat", seed=3, steps=2)
    assert np.array_equal(np.asarray(decoded(model, latents[None])), np.asarray(image))


def test_psnr():
    black, grey = (Image.fromarray(np.full((4, 4, 3), v, np.uint8)) for v in (0, 51))
    assert psnr(black, grey) == pytest.approx(20 * np.log10(5), abs=1e-6)
    assert psnr(grey, grey) == float("inf")
