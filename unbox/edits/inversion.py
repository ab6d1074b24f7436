"""A user's own image in a few-step model: encoded, noised, drawn again; its features read, and edited.

A few-step sampler cannot be run backwards: each of its steps is a leap. So every state of the run is set from
the image, x_i = x0 + sigma_i * noise_i with noise of its own at each step, and what the model's step lacks to
reach the next state is kept as a **correction** (edit-friendly inversion, Huberman-Spiegelglas et al. 2024,
and its few-step form in TurboEdit, Deutch et al. 2024). A run with the corrections gives the image back up to
the VAE; a run with edits moves away from it by what the edits change. `Inversion.fidelity` says how much of
the image is the model's own work and how much the corrections'.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from einops import repeat
from PIL import Image
from torch import Tensor

from unbox.edit import Edit, Edits
from unbox.errors import FieldError
from unbox.memory_limit import require
from unbox.models import Model
from unbox.models.clock import clock
from unbox.models.conditioning import Micro
from unbox.models.hooks import as_hook
from unbox.models.prediction import to_x0
from unbox.models.prompt_length import unlogged, warn_of_cut
from unbox.models.run_lock import exclusive
from unbox.models.schedulers import V3_SIGMA_MAX, NativeEulerScheduler, sigma_max_for
from unbox.models.seeds import generator
from unbox.models.split import first_refined
from unbox.picture_file import upright_rgb
from unbox.validation import Guidance, Seed, StepIndex, Steps, Text, checked

#: The last of the schedule that a refiner was trained on.
REFINED = 0.3
#: Bytes a pixel while SDXL's VAE encodes: two maps of 128 channels in float32.
PIXEL_BYTES = 1024


@dataclass(frozen=True)
class Conditioning:
    """What a UNet is given at its steps: rows of the branches, "uncond" first under guidance."""

    pipeline: DiffusionPipeline
    """Whose UNet it is."""
    first: int
    """The first step that it runs: of an ensemble's refiner, where the base ends."""
    branches: tuple[str, ...]
    text: Tensor
    added: dict[str, Tensor]
    guidance: float


@dataclass(frozen=True, eq=False)
class Inversion:
    """An image as a run of a model. `invert` makes it."""

    model: Model
    image: Image.Image
    conditioning: tuple[Conditioning, ...]
    """Of each UNet, in the order that they run."""
    steps: int
    start: int
    states: Tensor
    """(steps - start + 1, 4, h, w): the latents at each step, in sigma's scale; the last are the image's."""
    corrections: Tensor
    """(steps - start, 4, h, w): what the model's step lacks to reach the next state."""

    def draw(self, edits: Edit | Edits | None = None, corrected: bool = True) -> Image.Image:
        """The image drawn again, with edits if any. `unbox.record` around it records its updates.

        Without `corrected` the model is left alone with the noised image, as in SDEdit.
        """
        hook = as_hook(edits).attach(self.model, None) if edits else nullcontext()
        with clock(self.model, "drawing an inversion"), _canvas(self.model, self.image):
            with hook:
                state = self.states[:1]
                for i in range(self.steps - self.start):
                    state = _step(self.model, self.conditioning, self.steps, self.start + i, state)
                    state = state + self.corrections[i] if corrected else state
            return decoded(self.model, state)

    @cached_property
    def fidelity(self) -> dict[str, float]:
        """PSNR in dB to the image of: `vae`, encoded and decoded; `run`, drawn with the corrections (the
        VAE's loss and rounding); `model`, drawn without: near `vae` where the model itself holds the image.
        """
        again = decoded(self.model, self.states[-1:]), self.draw(), self.draw(corrected=False)
        return dict(zip(("vae", "run", "model"), (psnr(self.image, image) for image in again), strict=True))


def invert(
    model: Model,
    image: Image.Image,
    prompt: str = "",
    *,
    steps: int | None = None,
    start: int = 0,
    guidance: float | None = None,
    seed: int = 0,
) -> Inversion:
    """An image as a run of `model`, from the noise level of step `start` of `steps` down to the image.

    `image`: PIL, of a size that the model samples (both sides multiples of the VAE's factor). `prompt`: what
    the image shows. Later starts keep more of the image in the latents that the model sees and leave edits
    less room. Raises UnboxError for a start outside the steps, a size that cannot be encoded, or a UNet that
    reads its guidance (LCM SDXL's).
    """
    system = model.system
    steps = system.steps if steps is None else steps
    guidance = system.guidance if guidance is None else guidance
    steps, guidance = (
        checked(Steps, "steps", steps, "invert"),
        checked(Guidance, "guidance", guidance, "invert"),
    )
    start, seed = checked(StepIndex, "start", start, "invert"), checked(Seed, "seed", seed, "invert")
    prompt = checked(Text, "prompt", prompt, "invert")
    if system.guidance_embedded:
        rule = "should be a system that reads no embedding of its guidance: inverting gives none"
        raise FieldError("invert", "model", system.name, rule)
    if start >= steps:
        raise FieldError("invert", "start", start, f"should be a step: 0 to {steps - 1}")
    if not isinstance(image, Image.Image):
        raise FieldError("invert", "image", image, "should be a picture of PIL")
    image = upright_rgb(image)
    unit = max(8, model.pipeline.vae_scale_factor)
    if image.width % unit or image.height % unit:
        rule = f"should have sides that are multiples of {unit} (the model's own size is {model.size})"
        raise FieldError("invert", "image", f"{image.width} x {image.height} pixels", rule)
    require(PIXEL_BYTES * image.width * image.height, f"encoding {image.width:,} x {image.height:,} pixels")
    draw = generator(seed)
    warn_of_cut(model, [prompt])
    if system.image_to_image and start < (begin := steps - int(REFINED * steps)):
        warnings.warn(
            f"{system.name} refines what is nearly an image: it was not trained on the noise before step "
            f"{begin} of {steps} (start=, --start)",
            stacklevel=2,
        )
    with clock(model, "inverting an image"), _canvas(model, image):
        conditioning = tuple(_conditioned(model, steps, prompt, guidance, image))
        latents = encoded(model, image)
        sigmas = _schedule(model, model.pipeline, steps)[1][start:]
        noise = torch.stack([torch.randn(latents.shape[1:], generator=draw) for _ in sigmas]).to(latents)
        states = latents + torch.tensor(sigmas).to(latents)[:, None, None, None] * noise
        after = [
            _step(model, conditioning, steps, start + i, states[i : i + 1]) for i in range(len(sigmas) - 1)
        ]
    return Inversion(model, image, conditioning, steps, start, states, states[1:] - torch.cat(after))


def encoded(model: Model, image: Image.Image) -> Tensor:
    """(1, 4, h, w) float32 latents of an image: the mode of the VAE's posterior, as the UNet reads it."""
    pixels = model.pipeline.image_processor.preprocess(image)
    with exclusive(model, "encoding an image"), torch.no_grad(), _vae(model) as vae:
        latents = vae.encode(pixels.to(model.device, vae.dtype)).latent_dist.mode().float()
    shift, deviation = _normalisation(model, latents)
    return (latents - shift) * vae.config.scaling_factor / deviation


def decoded(model: Model, latents: Tensor) -> Image.Image:
    """Image of (1, 4, h, w) latents: the pipeline's, to the bit, of latents of its own in every dtype."""
    with exclusive(model, "decoding latents"), torch.no_grad(), _vae(model) as vae:
        own = latents.to(model.device, vae.dtype)
        shift, deviation = _normalisation(model, own)
        pixels = vae.decode(own * deviation / vae.config.scaling_factor + shift, return_dict=False)[0]
    return model.pipeline.image_processor.postprocess(pixels, output_type="pil")[0]


def _normalisation(model: Model, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Mean and deviation of the VAE's latents, by channel, which the UNet does not see; 0 and 1 without."""
    given = (model.pipeline.vae.config.get(name) for name in ("latents_mean", "latents_std"))
    mean, deviation = (None if each is None else torch.tensor(each).to(like)[:, None, None] for each in given)
    return (0.0, 1.0) if mean is None or deviation is None else (mean, deviation)


def psnr(first: Image.Image, second: Image.Image) -> float:
    """Peak signal to noise ratio of two images of equal size, in dB; infinite where they are equal."""
    a, b = (np.asarray(image.convert("RGB"), np.float64) / 255 for image in (first, second))
    error = float(((a - b) ** 2).mean())
    return float(-10 * np.log10(error)) if error else float("inf")


def _step(model: Model, each: Sequence[Conditioning], steps: int, step: int, state: Tensor) -> Tensor:
    """The model's deterministic step (Euler on x = x0 + sigma * noise) from `step` to the next level."""
    given = next(one for one in reversed(each) if one.first <= step)
    timesteps, sigmas = _schedule(model, given.pipeline, steps)
    sigma, lower = sigmas[step], sigmas[step + 1]
    noisy = state / (sigma**2 + 1) ** 0.5
    rows = repeat(noisy, "1 c y x -> branch c y x", branch=len(given.branches)).to(model.dtype)
    assert model.clock is not None
    with torch.no_grad(), model.clock.rows(samples=[0], branches=given.branches):
        output = given.pipeline.unet(
            rows, timesteps[step], encoder_hidden_states=given.text, added_cond_kwargs=given.added
        )
    predicted = output.sample.float()
    uncond, cond = predicted[:1], predicted[-1:]  # one and the same without guidance
    guided = cond if len(predicted) == 1 else uncond + given.guidance * (cond - uncond)
    x0 = to_x0(guided, noisy, 1 / (1 + sigma**2), given.pipeline.scheduler.config["prediction_type"])
    return x0 + (lower / sigma) * (state - x0)


def _schedule(model: Model, pipeline: DiffusionPipeline, steps: int) -> tuple[Tensor, list[float]]:
    """Timesteps, and sigma at each with the final 0; sets the scheduler, as sampling does."""
    scheduler = pipeline.scheduler
    fixed = (model.system.timesteps or {}).get(steps)
    asked = {"timesteps": list(fixed)} if fixed else {"num_inference_steps": steps}
    scheduler.set_timesteps(**asked, device=model.device)
    timesteps = scheduler.timesteps
    if hasattr(scheduler, "sigmas"):
        return timesteps, [float(sigma) for sigma in scheduler.sigmas[:steps]] + [0.0]
    abar = scheduler.alphas_cumprod[timesteps.long().cpu()].double()
    return timesteps, [*((1 - abar) / abar).sqrt().tolist(), 0.0]


def _conditioned(
    model: Model, steps: int, prompt: str, guidance: float, image: Image.Image
) -> Iterator[Conditioning]:
    """Of each of the model's UNets."""
    branches = ("uncond", "cond") if guidance > 1 else ("cond",)
    for pipeline, first in zip(model.pipelines, (0, first_refined(model, steps)), strict=False):
        with torch.no_grad(), unlogged(pipeline):
            text, no_text, pooled, no_pooled = pipeline.encode_prompt(
                prompt, device=model.device, do_classifier_free_guidance=guidance > 1
            )
        scored = bool(pipeline.config.get("requires_aesthetics_score"))
        ids = [Micro().ids(image.height, image.width, scored, branch) for branch in branches]
        added = {
            "text_embeds": torch.cat([no_pooled, pooled]) if guidance > 1 else pooled,
            "time_ids": torch.tensor(ids).to(text),
        }
        text = torch.cat([no_text, text]) if guidance > 1 else text
        yield Conditioning(pipeline, first, branches, text, added, guidance)


def _canvas(model: Model, image: Image.Image) -> AbstractContextManager[None]:
    """Inside, a schedule that depends on the canvas is of the image's."""
    scheduler = model.pipeline.scheduler
    if not isinstance(scheduler, NativeEulerScheduler):
        return nullcontext()
    return scheduler.with_sigma_max(sigma_max_for(image.height, image.width, V3_SIGMA_MAX, model.size))


@contextmanager
def _vae(model: Model) -> Iterator[Any]:
    """The VAE, in float32 for as long as it computes where float16 overflows in it."""
    vae = model.pipeline.vae
    before = vae.dtype
    lifted = before == torch.float16 and vae.config.force_upcast
    try:
        yield vae.to(torch.float32) if lifted else vae
    finally:
        if lifted:
            vae.to(before)
