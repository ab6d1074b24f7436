"""Each image is guided away from what its own negative prompt says: a text, the empty text, or nothing."""

import warnings
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from PIL import Image

from tests.models.test_generate import TRAILING, close
from unbox import record
from unbox.models import SYSTEMS, load

CALL = {"steps": 2, "guidance": 4.0, "output": "latent"}


def by_the_pipeline(model, prompt, seed, **negative):
    """One image by the plain pipeline, told of the negative prompt as its caller would."""
    return model.pipeline(
        prompt, num_inference_steps=2, guidance_scale=4.0, generator=torch.Generator().manual_seed(seed),
        output_type="latent", **negative,
    ).images[0]  # fmt: skip


@pytest.mark.parametrize("negative", ["a dog", "", None])
def test_one_image_is_the_pipelines(model, negative):
    (made,) = model.generate("a cat", seed=3, negative_prompt=negative, **CALL)
    assert torch.equal(made, by_the_pipeline(model, "a cat", 3, negative_prompt=negative))


def test_the_empty_text_is_not_nothing(model):
    """The pipeline itself tells them apart: zeros, and an encoded text."""
    empty, none = (by_the_pipeline(model, "a cat", 3, negative_prompt=text) for text in ("", None))
    assert not close([empty], [none], 0.05)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_they_may_be_mixed_in_a_batch(model, batch_size):
    negatives = ["a dog", None, "", None, "a red car"]
    seeds = list(range(5))
    made = model.generate("a cat", seeds=seeds, negative_prompt=negatives, batch_size=batch_size, **CALL)
    single = [
        by_the_pipeline(model, "a cat", seed, negative_prompt=negative)
        for seed, negative in zip(seeds, negatives, strict=True)
    ]
    if batch_size == 1:
        assert all(torch.equal(one, other) for one, other in zip(made, single, strict=True))
    assert close(made, single)
    assert "encode_prompt" not in vars(model.pipeline)


def test_a_mixed_batch_is_the_pipelines_with_its_own_embeddings(model):
    """To the bit: the pipeline's call with the rows of its two ways of encoding put together by hand."""
    pipeline, prompts = model.pipeline, ["a cat", "a boat"]
    text, zeros, pooled, no_pooled = pipeline.encode_prompt(prompts, do_classifier_free_guidance=True)
    _, words, _, pooled_words = pipeline.encode_prompt(prompts, negative_prompt=["a dog", "a dog"])
    call = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "latent"}
    by_hand = pipeline(
        prompt_embeds=text, pooled_prompt_embeds=pooled,
        negative_prompt_embeds=torch.stack([words[0], zeros[1]]),
        negative_pooled_prompt_embeds=torch.stack([pooled_words[0], no_pooled[1]]),
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)], **call,
    ).images  # fmt: skip
    made = model.generate(prompts, seeds=[5, 6], negative_prompt=["a dog", None], **CALL)
    assert torch.equal(torch.stack(made), by_hand)
    assert not zeros.any()


def test_what_a_recording_around_it_hears_is_left(model):
    with record(model, ["text.1.1", "mid.0"]) as tape:
        recorded = model.generate(["a cat", "a boat"], seeds=[1, 2], negative_prompt=["a dog", None], **CALL)
    plain = model.generate(["a cat", "a boat"], seeds=[1, 2], negative_prompt=["a dog", None], **CALL)
    assert all(torch.equal(*pair) for pair in zip(recorded, plain, strict=True))
    assert tape.branches == ("cond", "uncond")
    assert "encode_prompt" not in vars(model.pipeline)


def test_a_refiner_encodes_nothing_as_the_empty_text(refiner):
    """Its configuration has no zeros (`force_zeros_for_empty_prompt`): there the two are one."""
    model = load(refiner, system=replace(SYSTEMS["sdxl-refiner"], size=64, scheduler_config=TRAILING))
    model.pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    call = {"image": Image.new("RGB", (64, 64), (90, 120, 30)), "strength": 0.5, **CALL}
    mixed = model.generate("a cat", seeds=[1, 1, 1], negative_prompt=[None, "", "a dog"], **call)
    assert torch.equal(mixed[0], mixed[1])
    assert not close(mixed[:1], mixed[2:], 0.05)


def test_both_pipelines_of_an_ensemble_are_told(tiny, refiner):
    row = replace(SYSTEMS["sdxl-base+refiner"], refiner=str(refiner), size=64, scheduler_config=TRAILING)
    both = load(tiny, system=row)
    call = {"steps": 5, "guidance": 4.0, "output": "latent"}
    mixed = both.generate("a cat", seeds=[1, 2], negative_prompt=["a dog", None], **call)
    single = [
        both.generate("a cat", seed=seed, negative_prompt=negative, **call)[0]
        for seed, negative in ((1, "a dog"), (2, None))
    ]
    assert close(mixed, single)
    assert isinstance(both.refiner, StableDiffusionXLImg2ImgPipeline)


def test_only_negative_prompts_that_are_given_are_idle_without_guidance(model):
    idle = {"steps": 2, "guidance": 1.0, "output": "latent", "seed": 1}
    for given in ("", "a dog", [None, "a dog"]):
        with pytest.warns(UserWarning, match="a negative prompt has no effect at guidance 1"):
            model.generate("a cat", negative_prompt=given, **idle)
    with warnings.catch_warnings(record=True) as warned:
        model.generate("a cat", negative_prompt=[None, None], **idle)
    assert not [each for each in warned if "negative" in str(each.message)]
