"""NaN and infinite numbers are errors that name step, image and edit, and nothing black comes out."""

from functools import partial

import numpy as np
import pytest
import torch

from unbox import UnboxError, record
from unbox.edit import Block, Direction, Edits
from unbox.edits import applied, invert
from unbox.models import Model
from unbox.models.finite import FiniteCheck

SIZE = {"guidance": 0.0, "height": 64, "width": 64, "seed": 0}
HUGE = Direction("up.0.1", np.ones(128)).add(1e30)


@pytest.fixture
def poisoned(model):
    """The model, with a VAE whose decoder gives an infinite number."""
    to_infinity = model.pipeline.vae.decoder.conv_out.register_forward_hook(lambda _, args, out: out / 0)
    yield model
    to_infinity.remove()


@pytest.mark.parametrize("output", ["pil", "np", "latent"])
def test_an_edit_that_gives_nan_is_named_with_its_step_and_image(model, output):
    late = Edits.of(Direction("mid.0", np.ones(128)).add(float("1e38"), steps=(1, 3)))
    with pytest.raises(UnboxError) as error:
        model.generate(["a cat"] * 3, edits=[None, late, None], steps=3, batch_size=2, output=output, **SIZE)
    said = str(error.value)
    assert "the prediction of step 1 of image 1 is NaN or infinite" in said
    assert "with the edit mid.0 add 1e+38" in said
    assert "guidance 0 in float32" in said
    assert model.clock is None
    assert model.generate("a cat", steps=1, **SIZE)  # nothing of it is left


@pytest.mark.parametrize("guidance", [1e30, 1e38])
@pytest.mark.parametrize("output", ["pil", "np"])
@pytest.mark.parametrize("steps", [1, 2])
def test_guidance_that_overflows_is_an_error(model, guidance, steps, output):
    given = {"guidance_scale": guidance, "output_type": output, "height": 64, "width": 64}
    call = partial(model.pipeline, ["a cat", "a dog"], num_inference_steps=steps, **given)
    with (
        record(model, ["mid.0"]),
        pytest.raises(UnboxError, match=r"NaN or infinite, without edits, at guidance 1e\+3"),
    ):
        call()
    with pytest.raises(UnboxError, match=r"guidance = 1e\+3.: should be at most 1,000"):
        model.generate("a cat", guidance=guidance)


def test_a_bare_call_of_the_pipeline_is_looked_at_too(model):
    with applied(model, HUGE), pytest.raises(UnboxError, match=r"up\.0\.1 add 1e\+30"):
        model.pipeline("a cat", num_inference_steps=2, guidance_scale=0.0, height=64, width=64)


def test_a_vae_that_overflows_is_told_from_latents_that_do(poisoned):
    with (
        record(poisoned, ["mid.0"]),
        pytest.raises(UnboxError, match="the decoded picture of image 0, 1 is NaN"),
    ):
        poisoned.generate(["a cat", "a dog"], steps=1, **SIZE)
    (latents,) = poisoned.generate("a cat", steps=1, output="latent", **SIZE)
    assert torch.isfinite(latents).all()


def test_float16_pictures_say_that_the_vae_overflows(poisoned: Model):
    vae, said = poisoned.pipeline.vae, "the VAE overflows in float16: load with dtype='bfloat16'"
    hook = vae.decoder.register_forward_hook(lambda _, args, out: out.half())
    vae.decoder._forward_hooks.move_to_end(hook.id, last=False)
    try:
        with pytest.raises(UnboxError, match=said):
            poisoned.generate("a cat", steps=1, **SIZE)
    finally:
        hook.remove()


def test_inversions_name_what_is_not_finite(model):
    (image,) = model.generate("a cat", steps=1, **SIZE)
    inversion = invert(model, image, "a cat", steps=2)
    with pytest.raises(UnboxError, match=r"step 0 .*with the edit up\.0\.1 add 1e\+30"):
        inversion.draw(HUGE)


def test_a_users_own_loop_is_looked_at_when_its_context_ends(model):
    pipeline, text = model.pipeline, torch.zeros(1, 77, 64)
    pipeline.scheduler.set_timesteps(2)
    added = {"text_embeds": torch.zeros(1, 32), "time_ids": torch.zeros(1, 6)}

    @torch.no_grad()
    def sample() -> None:
        with applied(model, Block("mid.0").scale(2)):
            for step, bad in enumerate((0.0, float("inf"))):
                latents, timestep = torch.zeros(1, 4, 32, 32) + bad, pipeline.scheduler.timesteps[step]
                pipeline.unet(latents, timestep, encoder_hidden_states=text, added_cond_kwargs=added)

    with pytest.raises(UnboxError, match="the latents that enter step 1 of image 0 are NaN"):
        sample()


def test_flags_are_read_once_a_run_and_their_number_is_bounded(monkeypatch):
    check, reads = FiniteCheck(), []
    monkeypatch.setattr(
        torch.Tensor, "cpu", lambda x, real=torch.Tensor.cpu: reads.append(x.shape) or real(x)
    )
    for step in range(2500):
        check.note(step, np.array([0, 0]), torch.zeros(2, 4), torch.zeros(2, 4))
    assert reads == [(2, 2000), (2, 2000)]
    check.look()
    check.look()
    assert len(reads) == 3
