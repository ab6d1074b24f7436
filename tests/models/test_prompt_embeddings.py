"""Long prompts in chunks and weighted words, against the pipeline's own encoding of their pieces."""

import warnings

import pytest
import torch

import unbox
from unbox.errors import UnboxError
from unbox.models.prompt_embeddings import PromptReading

#: A token each.
WORDS = ("a cat dog " * 40).split()
SEVENTY_FIVE, NEXT = " ".join(WORDS[:75]), " ".join(WORDS[75:100])
LONG = f"{SEVENTY_FIVE} {NEXT}"
CALL = {"steps": 2, "guidance": 3.0, "output": "latent", "seed": 1}
CHUNKS = PromptReading(chunks=True)


def encoded(model, text):
    """The pipeline's own embedding and pooled embedding of a text."""
    with torch.no_grad():
        embeds, _, pooled, _ = model.pipeline.encode_prompt(
            text, device="cpu", do_classifier_free_guidance=False
        )
    return embeds[0], pooled[0]


def test_a_long_prompt_is_its_chunks_one_after_the_other(model):
    given = CHUNKS.arguments(model.pipeline, [LONG, "a cat"], [None, None], guided=False)
    first, second = (encoded(model, text) for text in (SEVENTY_FIVE, NEXT))
    assert CHUNKS.length(model.pipeline, LONG) == 2
    assert given["prompt_embeds"].shape == (2, 2 * 77, 64)
    torch.testing.assert_close(
        given["prompt_embeds"][0], torch.cat([first[0], second[0]]), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(given["pooled_prompt_embeds"][0], first[1], atol=1e-5, rtol=1e-5)
    short, empty = encoded(model, "a cat")[0], encoded(model, "")[0]
    torch.testing.assert_close(given["prompt_embeds"][1], torch.cat([short, empty]), atol=1e-5, rtol=1e-5)


def test_negative_prompts_are_as_long_and_absent_ones_are_zeros(model):
    given = CHUNKS.arguments(model.pipeline, [LONG, LONG], ["a dog", None], guided=True)
    dog, empty = encoded(model, "a dog"), encoded(model, "")
    torch.testing.assert_close(
        given["negative_prompt_embeds"][0], torch.cat([dog[0], empty[0]]), atol=1e-5, rtol=1e-5
    )
    assert not given["negative_prompt_embeds"][1].any()
    assert not given["negative_pooled_prompt_embeds"][1].any()


def test_weights_move_words_from_the_empty_prompt(model):
    given = PromptReading(weights=True).arguments(model.pipeline, ["a (cat:1.5) dog"], [None], guided=False)
    plain, pooled = encoded(model, "a cat dog")
    empty, _ = encoded(model, "")
    expected = plain.clone()
    expected[2] = empty[2] + 1.5 * (plain[2] - empty[2])  # after the beginning and "a"
    torch.testing.assert_close(given["prompt_embeds"][0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(given["pooled_prompt_embeds"][0], pooled)


def test_short_prompts_without_weights_are_the_pipelines_bits(model):
    (plain,) = model.generate("a cat", **CALL)
    (read,) = model.generate("a cat", long_prompts="chunks", prompt_weights=True, **CALL)
    assert torch.equal(plain, read)
    (weighted,) = model.generate("a (cat:1.5)", prompt_weights=True, **CALL)
    assert not torch.equal(plain, weighted)
    (one,) = model.generate("a (cat:1.0)", prompt_weights=True, **CALL)
    torch.testing.assert_close(one, plain, atol=1e-4, rtol=1e-4)
    (letters,) = model.generate("a (cat:1.5)", **CALL)
    assert not torch.equal(letters, weighted)


def test_an_image_does_not_depend_on_how_long_its_neighbours_prompts_are(model):
    prompts = ["a cat", LONG, "a dog", LONG]
    with warnings.catch_warnings(action="error", category=UserWarning):
        together = model.generate(prompts, long_prompts="chunks", batch_size=4, **CALL)
        for prompt, latents in zip(prompts, together, strict=True):
            (alone,) = model.generate(prompt, long_prompts="chunks", **CALL)
            assert float((alone - latents).abs().max() / alone.std()) < 3e-5
    with pytest.warns(UserWarning, match="what is over is cut off"):
        (cut,) = model.generate(LONG, **CALL)
    assert not torch.equal(cut, together[1])
    (first,) = model.generate(SEVENTY_FIVE, **CALL)
    assert torch.equal(cut, first)


def test_long_prompts_are_recorded_and_edited(model):
    with unbox.record(model, ["mid.0"]) as tape:
        model.generate(["a cat", LONG], long_prompts="chunks", **CALL)
    assert tape["mid.0"].shape[:3] == (2, 2, 2)
    with (
        unbox.record(model, ["text.1.0"]),
        pytest.raises(UnboxError, match=r"outside of pipeline\.encode_prompt"),
    ):
        model.generate(LONG, long_prompts="chunks", **CALL)


def test_refusals(model):
    with pytest.raises(UnboxError, match=r"has a \( without its end"):
        model.generate("a (cat", prompt_weights=True, **CALL)
    with pytest.raises(UnboxError, match="has 120 chunks; at most 100 are read"):
        model.generate(" ".join(["cat"] * 75 * 120), long_prompts="chunks", **CALL)
