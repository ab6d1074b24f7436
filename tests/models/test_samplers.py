"""Every row's sampler, through `generate`, against an independent path and against closed forms."""

from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from safetensors.torch import save_file

from tests.models.reference import (
    alphas_bar,
    consistency,
    consistency_timesteps,
    dpm_2s,
    euler,
    euler_ancestral,
    k_denoiser,
    leading,
    moves,
    sigmas_of,
    singlestep_timesteps,
    trailing,
)
from tests.models.tiny import tiny_unet
from unbox.models import SYSTEMS, Model, load
from unbox.models.load import set_scheduler
from unbox.models.schedulers import V3_SIGMA_MAX

# Standard deviation of the Gaussian oracle's data. In one step from sigma 14.6 the answer x - sigma eps
# cancels to 14.6 SPREAD^2 / (14.6^2 + SPREAD^2): a small spread alone would cost float32 four digits.
SPREAD = 5.0
PROMPT, SEED = "a red bird", 11
#: Pixels of an image's side, and the latents of it.
SIDE, LATENTS = 32, (4, 16, 16)
# float32 rounding of a UNet and its sampler, in deviations of the latents; up to 1e-5 was measured.
ROUNDING = 3e-5


def _seeded(shape=(1, *LATENTS)):
    """The image's own noise: the first draw, and then one draw per call."""
    generator = torch.Generator().manual_seed(SEED)
    return lambda: torch.randn(shape, generator=generator)


@pytest.fixture(scope="module")
def unet_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("unet") / "unet.safetensors"
    save_file(tiny_unet(seed=3).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def systems(tiny, tiny_v, unet_file):
    """Each row's settings on tiny weights, as `load` sets them: name -> model, made on demand."""
    weights, made = {}, {}

    def system(name):
        if name not in made:
            row = replace(SYSTEMS[name], parts=(), size=SIDE, base=None)
            folder = tiny_v if row.prediction == "v_prediction" else tiny
            if folder not in weights:
                weights[folder] = load(folder, system=row, unet=unet_file).pipeline.components
            pipeline = StableDiffusionXLPipeline(**weights[folder], add_watermarker=False)
            pipeline.scheduler = EulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
            set_scheduler(pipeline, row)
            made[name] = Model(pipeline, row)
        return made[name]

    return system


def conditions(pipeline, prompt=PROMPT, negative=None):
    """Text embeddings, pooled embeddings and time ids for the UNet, of the prompt and of the negative."""
    embeds, none, pooled, no_pool = pipeline.encode_prompt(
        prompt, device="cpu", do_classifier_free_guidance=True, negative_prompt=negative
    )
    last = ((6.0,), (2.5,)) if pipeline.text_encoder is None else ((float(SIDE), float(SIDE)),) * 2
    ids, no_ids = (torch.tensor([[float(SIDE), SIDE, 0, 0, *rest]]) for rest in last)
    return (embeds, pooled, ids), (none, no_pool, no_ids)


def unet_call(pipeline, condition):
    """`forward(x_in, t)` of the pipeline's UNet under a condition."""
    embeds, pooled, ids = condition

    def forward(x, t):
        added = {"text_embeds": pooled, "time_ids": ids}
        with torch.no_grad():
            return pipeline.unet(x, float(t), encoder_hidden_states=embeds, added_cond_kwargs=added).sample

    return forward


def guided(cond, uncond, scale, phi=0.0):
    """Guidance with the branches called one after the other, rescaled by phi (arXiv 2305.08891)."""

    def forward(x, t):
        one, none = cond(x, t), uncond(x, t)
        mixed = none + scale * (one - none)
        return phi * mixed * (one.std() / mixed.std()) + (1 - phi) * mixed

    return forward


def by_table(sigmas, timesteps):
    return {float(s): float(t) for s, t in zip(sigmas, timesteps, strict=False)}.__getitem__


def reference_latents(name, steps, forward):
    """Latents (1, 4, 16, 16) float64 of a row by the reference sampler."""
    row, noise = SYSTEMS[name], _seeded()
    if row.scheduler == "LCMScheduler":
        grid = row.timesteps[steps] if row.timesteps else consistency_timesteps(steps)
        return consistency(forward, noise().double(), grid, noise)
    if row.scheduler in VARIANCE_PRESERVING:
        timesteps, levels = levels_of(row, steps)
        denoise = k_denoiser(forward, row.prediction, by_table([now for now, _, _ in levels], timesteps))
        start = noise().double() * (levels[0][0] ** 2 + 1) ** 0.5
        if row.scheduler == "DPMSolverSinglestepScheduler":
            return dpm_2s(denoise, start, [now for now, _, _ in levels] + [0.0])
        return moves(denoise, start, levels, noise) * alphas_bar()[0] ** 0.5
    if name == "novelai-v3":
        timesteps, table = np.linspace(999, 0, steps), sigmas_of(alphas_bar(V3_SIGMA_MAX))
    else:
        leads = row.scheduler_config.get("timestep_spacing") == "leading"
        timesteps, table = (leading if leads else trailing)(steps), sigmas_of(alphas_bar())
    if name == "sdxl-turbo-stability":
        timesteps = 999 - 100 * np.arange(steps)
    sigmas = np.append(np.exp(np.interp(timesteps, np.arange(1000), np.log(table))), 0)
    denoise = k_denoiser(forward, row.prediction, by_table(sigmas, timesteps))
    # diffusers starts `leading` runs at sqrt(sigma^2 + 1) and the others at sigma
    leads = row.scheduler_config.get("timestep_spacing") == "leading"
    start = noise().double() * ((sigmas[0] ** 2 + 1) ** 0.5 if leads else sigmas[0])
    if "Euler" in row.scheduler and "Ancestral" not in row.scheduler:
        return euler(denoise, start, sigmas)
    return euler_ancestral(denoise, start, sigmas, noise)


#: Schedulers whose runs start from unit noise; their last sigma is that of timestep 0, or 0 (DPM).
VARIANCE_PRESERVING = ("DDIMScheduler", "TCDScheduler", "DPMSolverSinglestepScheduler")


def levels_of(row, steps):
    """Timesteps, and of each step its sigma, the one it goes down to, and the one that noise lifts it to."""
    sigma = sigmas_of(alphas_bar())
    if row.scheduler == "DDIMScheduler":
        timesteps = trailing(steps).astype(int)
        lower = np.maximum(timesteps - 1000 // steps, 0)
        return timesteps, [
            (sigma[t], sigma[low], sigma[low]) for t, low in zip(timesteps, lower, strict=True)
        ]
    if row.scheduler == "TCDScheduler":
        timesteps = consistency_timesteps(steps)
        after = [*timesteps[1:], 0]
        lower = np.floor((1 - row.eta) * np.array(after)).astype(int)
        if not row.eta:
            after = lower
        return timesteps, [
            (sigma[t], sigma[low], sigma[high]) for t, low, high in zip(timesteps, lower, after, strict=True)
        ]
    timesteps = singlestep_timesteps(steps).astype(int)
    return timesteps, [(sigma[t], 0.0, 0.0) for t in timesteps]


CASES = [
    ("sdxl-base", 10),
    ("sdxl-turbo", 1),
    ("sdxl-turbo", 4),
    ("sdxl-turbo-stability", 3),
    ("sdxl-lightning-1step", 1),
    ("sdxl-lightning-4step", 4),
    ("sdxl-distar-1step", 1),
    ("dmd2-4step", 4),
    ("hyper-sd-1step", 1),
    ("hyper-sd-1step-lora", 3),
    ("hyper-sd-4step-lora", 4),
    ("lcm-sdxl-lora", 4),
    ("tcd-sdxl-lora", 4),
    ("pcm-sdxl-4step-lora", 4),
    ("sdxl-flash", 7),
    ("novelai-v3", 12),
    ("shapes-turbo", 4),
]


@pytest.mark.parametrize(("name", "steps"), CASES)
def test_an_independent_sampler_gives_the_same_latents(systems, name, steps):
    model = systems(name)
    (latents,) = model.generate(PROMPT, seed=SEED, steps=steps, guidance=0.0, output="latent")
    cond, _ = conditions(model.pipeline)
    expected = reference_latents(name, steps, unet_call(model.pipeline, cond))[0]
    assert off(latents, expected) < ROUNDING


def test_lcms_unet_reads_the_guidance_scale(systems):
    """It has a layer more, which is given the scale less 1 as sines and cosines."""
    unet = tiny_unet(seed=3, guidance_numbers=16)
    parts = {**systems("lcm-sdxl").pipeline.components, "unet": unet}
    row = replace(SYSTEMS["lcm-sdxl"], parts=(), size=SIDE, base=None)
    model = Model(StableDiffusionXLPipeline(**parts, add_watermarker=False), row)
    scale = 1.05  # of 8, float32 leaves too little of the angles' sines
    (latents,) = model.generate(PROMPT, seed=SEED, output="latent", guidance=scale)
    angles = 1000 * (scale - 1) * 10000.0 ** (-np.arange(8) / 7)
    told = torch.tensor(np.concatenate([np.sin(angles), np.cos(angles)]), dtype=torch.float32)[None]
    (embeds, pooled, ids), _ = conditions(model.pipeline)

    def forward(x, t):
        added = {"text_embeds": pooled, "time_ids": ids}
        given = {"encoder_hidden_states": embeds, "added_cond_kwargs": added, "timestep_cond": told}
        with torch.no_grad():
            return unet(x, float(t), **given).sample

    expected = reference_latents("lcm-sdxl", 4, forward)[0]
    assert off(latents, expected) < ROUNDING
    eight, usual = (model.generate(PROMPT, seed=SEED, output="latent", guidance=g)[0] for g in (8.0, None))
    assert torch.equal(eight, usual)
    assert off(usual, expected) > 0.001
    with pytest.warns(UserWarning, match="negative prompt has no effect on lcm-sdxl"):
        model.generate(PROMPT, seed=SEED, output="latent", negative_prompt="a dog")


def off(latents, expected):
    """Largest difference, in deviations of what is expected."""
    return float((latents.double() - expected).abs().max() / expected.std())


@pytest.mark.parametrize(
    ("name", "steps", "phi"), [("sdxl-base", 10, 0.0), ("novelai-v3", 6, 0.0), ("novelai-v3", 6, 0.7)]
)
def test_guidance_batched_is_guidance_sequential(systems, name, steps, phi):
    model, negative = systems(name), "a blue boat"
    call = {"steps": steps, "guidance": 4.0, "guidance_rescale": phi, "negative_prompt": negative}
    (latents,) = model.generate(PROMPT, seed=SEED, output="latent", **call)
    cond, uncond = (unet_call(model.pipeline, each) for each in conditions(model.pipeline, negative=negative))
    expected = reference_latents(name, steps, guided(cond, uncond, 4.0, phi))[0]
    assert off(latents, expected) < ROUNDING


@pytest.fixture(scope="module")
def ensemble(tiny, refiner):
    """The base and the refiner on tiny weights."""
    return load(tiny, system=replace(SYSTEMS["sdxl-base+refiner"], refiner=str(refiner), size=SIDE))


def test_an_independent_split_gives_the_same_latents(ensemble):
    """The base above timestep 200, the refiner, with its own conditions, below; guidance in both."""
    (latents,) = ensemble.generate(PROMPT, seed=SEED, steps=10, guidance=4.0, output="latent")
    high, low = (
        guided(*(unet_call(pipeline, each) for each in conditions(pipeline)), 4.0)
        for pipeline in ensemble.pipelines
    )
    expected = reference_latents("sdxl-base", 10, lambda x, t: (high if t >= 200 else low)(x, t))[0]
    assert off(latents, expected) < ROUNDING
    (whole,) = load(ensemble.source, system=replace(SYSTEMS["sdxl-base"], size=SIDE)).generate(
        PROMPT, seed=SEED, steps=10, guidance=4.0, output="latent"
    )
    assert off(whole, expected) > 0.01


def test_an_independent_refining_gives_the_same_latents(refiner):
    model = load(refiner, system=replace(SYSTEMS["sdxl-refiner"], size=SIDE))
    start = torch.randn(LATENTS, generator=torch.Generator().manual_seed(1))
    (latents,) = model.generate(
        PROMPT, seed=SEED, image=[start], strength=0.3, steps=20, guidance=4.0, output="latent"
    )
    forward = guided(*(unet_call(model.pipeline, each) for each in conditions(model.pipeline)), 4.0)
    expected = refined(start, forward, steps=20)[0]
    assert off(latents, expected) < ROUNDING


def refined(start, forward, steps, strength=0.3):
    """Latents of image to image: `start` noised to the last `strength` of the schedule and sampled."""
    timesteps = leading(steps)[steps - int(steps * strength) :]
    sigmas = np.append(sigmas_of(alphas_bar())[timesteps], 0)
    x = start.double() + sigmas[0] * _seeded()().double()
    return euler(k_denoiser(forward, "epsilon", by_table(sigmas, timesteps)), x, sigmas)


def gaussian(kind, table):
    """The exact UNet of data N(0, SPREAD^2): by Bayes, E[x0 | x_t], said as `kind`."""

    def forward(x, t):
        log = np.interp(float(t), np.arange(1000), np.log(table))
        sigma = float(np.exp(log))
        x0 = x.double() * (1 + sigma**2) ** 0.5 * SPREAD**2 / (sigma**2 + SPREAD**2)
        root, rest = (1 + sigma**2) ** -0.5, sigma * (1 + sigma**2) ** -0.5
        eps = (x.double() - root * x0) / rest
        return {"epsilon": eps, "sample": x0, "v_prediction": root * eps - rest * x0}[kind].float()

    return forward


@contextmanager
def replaced_by(model, forward):
    """The model's UNets compute `forward(x, t)`; their hooks and configuration stay."""
    for pipeline in model.pipelines:
        pipeline.unet.forward = lambda x, t, **_: (forward(x, t),)
    try:
        yield
    finally:
        for pipeline in model.pipelines:
            del pipeline.unet.forward


ALL = [(row.name, n) for row in SYSTEMS.values() for n in row.step_counts or (row.steps,)]
ALL = [case for case in ALL if not SYSTEMS[case[0]].image_to_image and not SYSTEMS[case[0]].refiner]


@pytest.mark.parametrize(("name", "steps"), ALL)
def test_gaussian_data_is_sampled_as_the_closed_form_says(systems, name, steps):
    """With linear denoisers every sampler is linear: the answer is known for any noise."""
    model = systems(name)
    terminal = V3_SIGMA_MAX if SYSTEMS[name].scheduler == "NativeEulerScheduler" else None
    oracle = gaussian(model.system.prediction, sigmas_of(alphas_bar(terminal)))
    with replaced_by(model, oracle):
        (latents,) = model.generate(PROMPT, seed=SEED, steps=steps, guidance=0.0, output="latent")
    assert off(latents, closed_form(name, steps)) < 1e-5


def test_gaussian_data_is_split_as_the_closed_form_says(ensemble):
    """To both UNets the data are the same, so the split must leave no trace."""
    with replaced_by(ensemble, gaussian("epsilon", sigmas_of(alphas_bar()))):
        (latents,) = ensemble.generate(PROMPT, seed=SEED, steps=40, guidance=0.0, output="latent")
    assert off(latents, closed_form("sdxl-base", 40)) < 1e-5


def test_gaussian_data_is_refined_as_the_closed_form_says(refiner):
    model = load(refiner, system=replace(SYSTEMS["sdxl-refiner"], size=SIDE))
    start = SPREAD * torch.randn(LATENTS, generator=torch.Generator().manual_seed(1))
    with replaced_by(model, gaussian("epsilon", sigmas_of(alphas_bar()))):
        (latents,) = model.generate(
            PROMPT, seed=SEED, image=[start], strength=0.3, steps=40, guidance=0.0, output="latent"
        )
    timesteps = leading(40)[28:]
    sigmas = np.append(sigmas_of(alphas_bar())[timesteps], 0)
    x = start.double() + sigmas[0] * _seeded()().double()
    for now, after in pairwise(sigmas):
        x = x * (1 + (after - now) * now / (now**2 + SPREAD**2))
    assert off(latents, x[0]) < 1e-5


def closed_form(name, steps):
    """The latents (4, 16, 16) for N(0, SPREAD^2) data: products and sums of numbers, no denoiser called."""
    row, noise, spread = SYSTEMS[name], _seeded(), SPREAD**2
    abar = alphas_bar()
    if row.scheduler in VARIANCE_PRESERVING:
        return closed_form_of_levels(row, steps)
    if row.scheduler == "LCMScheduler":
        x, grid = noise().double(), row.timesteps[steps] if row.timesteps else consistency_timesteps(steps)
        for i, t in enumerate(grid):
            x = x * abar[t] ** 0.5 * spread / (abar[t] * spread + 1 - abar[t])  # E[x0 | x_t]
            if i + 1 < steps:
                after = abar[grid[i + 1]]
                x = after**0.5 * x + (1 - after) ** 0.5 * noise().double()
        return x[0]
    leads = row.scheduler_config.get("timestep_spacing") == "leading"
    timesteps = (leading if leads else trailing)(steps)
    native = row.scheduler == "NativeEulerScheduler"
    if native:
        timesteps, abar = np.linspace(999, 0, steps), alphas_bar(V3_SIGMA_MAX)
    if name == "sdxl-turbo-stability":
        timesteps = 999 - 100 * np.arange(steps)
    sigmas = np.append(np.exp(np.interp(timesteps, np.arange(1000), np.log(sigmas_of(abar)))), 0)
    x = noise().double() * ((sigmas[0] ** 2 + 1) ** 0.5 if leads else sigmas[0])
    ancestral = row.scheduler != "EulerDiscreteScheduler" and not native
    for now, after in pairwise(sigmas):
        up = after * (1 - after**2 / now**2) ** 0.5 if ancestral else 0.0
        down = (after**2 - up**2) ** 0.5
        x = x * (1 + (down - now) * now / (now**2 + spread))
        if up:
            x = x + up * noise().double()
    return x[0]


def closed_form_of_levels(row, steps):
    """The same for schedulers that start from unit noise: D(x) = share(sigma) x."""
    noise = _seeded()
    _, levels = levels_of(row, steps)
    sigmas = [now for now, _, _ in levels]
    x = noise().double() * (sigmas[0] ** 2 + 1) ** 0.5
    share = {sigma: SPREAD**2 / (sigma**2 + SPREAD**2) for sigma in sigmas}
    if row.scheduler != "DPMSolverSinglestepScheduler":
        for now, down, after in levels:
            x = x * (share[now] + (1 - share[now]) * down / now)
            if after > down:
                x = x + (after**2 - down**2) ** 0.5 * noise().double()
        return (x * alphas_bar()[0] ** 0.5)[0]
    while len(sigmas) > 2:
        (a, b, c), sigmas = sigmas[:3], sigmas[2:]
        middle = b / a + (1 - b / a) * share[a]
        slope = (share[b] * middle - share[a]) / (2 * np.log(a / b) / np.log(a / c))
        x = x * (c / a + (1 - c / a) * (share[a] + slope))
    for now, after in pairwise([*sigmas, 0.0]):
        x = x * (after / now + (1 - after / now) * share[now])
    return x[0]
