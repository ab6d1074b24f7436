from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline
from PIL import Image

from unbox.errors import UnboxError
from unbox.models import SYSTEMS, Micro, image_seed, load
from unbox.models.conditioning import MicroHook
from unbox.models.schedulers import V3_SIGMA_MAX
from unbox.prompt import Prompt

TRAILING = {"timestep_spacing": "trailing"}


@pytest.fixture(scope="module")
def turbo(tiny):
    return load(tiny, system=replace(SYSTEMS["sdxl-turbo"], size=64))


def close(a, b, tolerance=3e-5):
    return all((x - y).abs().max() <= tolerance * y.std() for x, y in zip(a, b, strict=True))


def test_four_seeds_in_a_batch_are_four_runs(turbo):
    """Ancestral noise too comes from each image's own generator."""
    call = {"steps": 3, "output": "latent"}
    batch = turbo.generate("a cat", seeds=[5, 6, 7, 8], **call)
    single = [turbo.generate("a cat", seed=seed, **call)[0] for seed in (5, 6, 7, 8)]
    odd = turbo.generate("a cat", seeds=[5, 6, 7, 8], batch_size=3, **call)
    assert close(batch, single)
    assert close(odd, single)
    assert not close(batch[:1], batch[1:2], 0.1)


def test_it_is_the_pipeline_that_samples(model):
    (own,) = model.generate("a cat", seed=3, steps=3, guidance=4.0, negative_prompt="a dog", output="np")
    plain = model.pipeline(
        "a cat",
        negative_prompt="a dog",
        num_inference_steps=3,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images[0]
    assert np.array_equal(own, plain)


def test_lists_are_broadcast(turbo):
    images = turbo.generate([Prompt("a cat"), "a dog"], seed=1, height=32, width=64)
    assert [image.size for image in images] == [(64, 32)] * 2
    assert len(turbo.generate("a cat", seeds=[1])) == 1
    same, also = turbo.generate("a cat", seed=1, edits=[None, None], output="latent")
    assert close([same], [also])


def test_without_a_seed_every_image_differs(turbo):
    first, second = turbo.generate(["a cat", "a cat"])
    assert first.info["seed"] != second.info["seed"]
    assert np.abs(np.asarray(first, int) - np.asarray(second, int)).max() > 5
    (again,) = turbo.generate("a cat", seed=second.info["seed"])
    assert np.abs(np.asarray(again, int) - np.asarray(second, int)).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 1, "seeds": [1]}, "not both"),
        ({"seeds": [1, 2, 3], "prompts": ["a", "b"]}, "2 of prompt, 3 of seed"),
        ({"prompts": []}, "list for prompt is empty"),
        ({"output": "jpeg"}, "output = 'jpeg': should be one of 'pil', 'latent' or 'np'"),
        ({"height": 60}, "generate: height = 60: should be a multiple of 8"),
        ({"width": 0}, "width = 0: should be at least 8"),
        ({"height": -64}, "height = -64: should be at least 8"),
        ({"batch_size": 0}, "batch_size = 0: should be at least 1"),
        ({"steps": 0}, "steps = 0: should be at least 1"),
        ({"image": Image.new("RGB", (64, 64))}, r"strength 0.3 of 1 step\(s\) is 0 of them"),
        ({"edits": 5}, "a int cannot be attached"),
    ],
)
def test_mistakes(turbo, arguments, message):
    with pytest.raises(UnboxError, match=message):
        turbo.generate(**{"prompts": "a cat", **arguments})


def test_ensemble_is_a_manual_split(tiny, refiner):
    both = load(
        tiny,
        system=replace(
            SYSTEMS["sdxl-base+refiner"], refiner=str(refiner), size=64, scheduler_config=TRAILING
        ),
    )
    prompts = ["a cat", "a dog"]
    images = both.generate(prompts, seeds=[1, 2], steps=5, guidance=4.0, output="np")
    base = load(tiny, system=replace(SYSTEMS["sdxl-base"], scheduler_config=TRAILING)).pipeline
    shared = {name: getattr(base, name) for name in ("vae", "text_encoder_2", "tokenizer_2")}
    second = StableDiffusionXLImg2ImgPipeline.from_pretrained(refiner, add_watermarker=False, **shared)
    second.scheduler = EulerDiscreteScheduler.from_config(second.scheduler.config, **TRAILING)
    call = {"num_inference_steps": 5, "guidance_scale": 4.0}
    call["generator"] = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    latents = base(prompts, denoising_end=0.8, output_type="latent", height=64, width=64, **call).images
    manual = second(prompts, image=latents, denoising_start=0.8, output_type="np", **call).images
    assert np.array_equal(np.stack(images), manual)


def test_refiner_takes_an_image(refiner):
    model = load(refiner, system=replace(SYSTEMS["sdxl-refiner"], size=64))
    start = Image.new("RGB", (64, 64), (90, 120, 30))
    (image,) = model.generate("a cat", seed=1, image=start, strength=0.4, steps=10)
    assert image.size == (64, 64)
    assert "up.1.0" in model.blocks
    with pytest.raises(UnboxError, match="give image="):
        model.generate("a cat")


def test_pictures_of_other_sizes_are_resized_or_refused_before_anything_runs(refiner):
    model = load(refiner, system=replace(SYSTEMS["sdxl-refiner"], size=64))
    model.pipeline.unet.register_forward_pre_hook(lambda *_: pytest.fail("it ran"))
    square, wide, odd = (Image.new("RGB", size, (90, 120, 30)) for size in ((64, 64), (96, 64), (65, 64)))
    latents = torch.zeros(4, 32, 32)
    for images, options, message in (
        ([square, wide], {}, r"are of one size; these are 64 x 64, 64 x 96 \(height x width\): give height="),
        ([odd], {}, "an image of 64 x 65 pixels cannot be refined; sides are multiples of 8: give height="),
        ([square], {"height": 60}, "height = 60: should be a multiple of 8"),
        ([square, latents], {}, "are of one kind; these are Tensor, picture"),
        ([latents], {"width": 96}, "arrays and tensors are not resized: this is 64 x 64 pixels, and 64 x 96"),
        ([np.zeros((64, 64))], {}, r"not ndarray \(64, 64\)"),
        ([7], {}, r"image = \[7\]: should be an image of PIL"),
    ):
        with pytest.raises(UnboxError, match=message):
            model.generate("a cat", image=images, strength=0.4, steps=10, **options)


def test_a_size_crops_the_pictures_that_are_refined(refiner):
    model = load(refiner, system=replace(SYSTEMS["sdxl-refiner"], size=64))
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8))
    options = {"seed": 1, "strength": 0.4, "steps": 5, "batch_size": 2}
    both = model.generate("a cat", image=[wide, wide.crop((32, 0, 96, 64))], height=64, width=64, **options)
    assert [image.size for image in both] == [(64, 64)] * 2
    assert np.array_equal(*both)
    (whole,) = model.generate("a cat", image=wide, **options)
    assert whole.size == (128, 64)


def test_micro_conditioning_reaches_each_branch_of_each_image(model):
    """Upstream repeats (negative, positive) ids row by row, which a batch of two gets wrong."""
    first = Micro(original=(32, 48), negative=Micro(original=(8, 8), crop=(1, 2), target=(16, 16)))
    second = Micro(crop=(4, 5), target=(128, 96))
    seen = []
    original = model.unet.forward

    def forward(*args, **kwargs):
        seen.append(kwargs["added_cond_kwargs"]["time_ids"].tolist())
        return original(*args, **kwargs)

    model.unet.forward = forward
    try:
        model.generate(
            ["a cat", "a dog"], seed=1, steps=1, guidance=3.0, micro=[first, second], output="latent"
        )
    finally:
        del model.unet.forward
    assert seen[0] == [
        [8, 8, 1, 2, 16, 16],
        [64, 64, 4, 5, 128, 96],
        [32, 48, 0, 0, 64, 64],
        [64, 64, 4, 5, 128, 96],
    ]


def test_negative_sizes_in_a_batch_equal_single_runs(model):
    micro = Micro(negative=Micro(original=(8, 8), target=(16, 16)))
    call = {"steps": 2, "guidance": 6.0, "micro": micro, "output": "latent"}
    batch = model.generate(["a cat", "a dog"], seeds=[1, 2], **call)
    single = [model.generate(p, seed=s, **call)[0] for p, s in (("a cat", 1), ("a dog", 2))]
    assert close(batch, single)


@pytest.mark.parametrize("which", ["model", "refiner"])
def test_default_ids_are_the_pipelines(which, request):
    """What our hook says for a plain `Micro` is what the pipeline says by itself."""
    model, call = request.getfixturevalue(which), {}
    if which == "refiner":
        model = load(model, system=replace(SYSTEMS["sdxl-refiner"], size=64))
        call = {"image": Image.new("RGB", (64, 64)), "strength": 1.0}
    seen = []
    hook = model.unet.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["added_cond_kwargs"]["time_ids"].tolist()),
        with_kwargs=True,
    )
    call |= {"seed": 1, "steps": 1, "guidance": 3.0, "output": "latent"}
    try:
        for hooks in ((), (MicroHook([Micro()] * 2, 64, 64),)):
            model.generate(["a cat", "a dog"], hooks=hooks, **call)
    finally:
        hook.remove()
    assert len(seen) == 2
    assert seen[0] == seen[1]


def test_ids_by_branch():
    assert Micro().ids(64, 96, False, "cond") == [64, 96, 0, 0, 64, 96]
    assert Micro().ids(64, 96, True, "cond") == [64, 96, 0, 0, 6.0]
    assert Micro(aesthetic=7.0).ids(64, 96, True, "uncond") == [64, 96, 0, 0, 2.5]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_v3_latents_in_float32(tiny_v, dtype):
    """Through `generate` and through the bare pipeline: 20000 times unit noise overflows float16."""
    row = replace(SYSTEMS["novelai-v3"], size=32)  # a CPU computes float16 slowly
    half = load(tiny_v, dtype, system=row)
    dtypes = []
    step = half.pipeline.scheduler.step
    half.pipeline.scheduler.step = lambda out, t, x, *a, **k: (
        dtypes.append(x.dtype),
        step(out, t, x, *a, **k),
    )[1]
    (latents,) = half.generate("a cat", seed=1, steps=4, guidance=0.0, output="latent")
    assert set(dtypes) == {torch.float32}
    assert latents.dtype == dtype
    assert latents.isfinite().all()
    (image,) = half.generate("a cat", seed=1, steps=4, guidance=0.0)
    call = {"num_inference_steps": 4, "guidance_scale": 0.0, "height": 32, "width": 32}
    bare = half.pipeline("a cat", output_type="latent", **call).images
    assert bare.isfinite().all()
    assert set(dtypes) == {torch.float32}
    full = load(tiny_v, torch.float32, system=row)
    (exact,) = full.generate("a cat", seed=1, steps=4, guidance=0.0, output="latent")
    assert (latents.float() - exact).std() < 0.1 * exact.std()
    assert image.size == (32, 32)


def test_image_seed_is_stable_and_spread():
    assert image_seed(0, 0) == 1427366890
    assert image_seed(0, 1) != image_seed(1, 0)
    assert len({image_seed(7, i) for i in range(10_000)}) > 9_990
    assert all(0 <= image_seed(3, i) < 2**32 for i in range(100))


def test_the_sigma_of_a_large_canvas_is_put_back(tiny_v, monkeypatch):
    """Also after a run that failed: the next one, of the bare pipeline too, begins where it would have."""
    row = replace(SYSTEMS["novelai-v3"], size=64)
    model = load(tiny_v, system=row)
    begins = model.pipeline.scheduler.alphas_cumprod.clone()
    call = {"seed": 0, "steps": 2, "guidance": 0.0, "output": "latent"}
    small = model.generate("a cat", **call)[0]
    firsts = []
    note = lambda *_: firsts.append(float(model.pipeline.scheduler.sigmas[0]))  # noqa: E731
    handle = model.unet.register_forward_pre_hook(note)
    model.generate("a cat", height=128, width=128, **call)
    assert firsts[0] == pytest.approx(2 * V3_SIGMA_MAX, rel=1e-4)
    assert torch.equal(model.pipeline.scheduler.alphas_cumprod, begins)
    assert torch.equal(model.generate("a cat", **call)[0], small)
    handle.remove()

    def fail(*_):
        raise RuntimeError("on purpose")

    handle = model.unet.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        model.generate("a cat", height=128, width=128, **call)
    handle.remove()
    assert torch.equal(model.pipeline.scheduler.alphas_cumprod, begins)
