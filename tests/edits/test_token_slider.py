"""Sliders on tokens, beside the pipeline given the moved embeddings."""

import math

import numpy as np
import pytest
import torch

from unbox.edits.edit_files import save_edits
from unbox.edits.head_scale import HeadScale
from unbox.edits.token_slider import TokenSlider, growing_strength, places_of_word, token_direction
from unbox.errors import UnboxError

OPTIONS = {"steps": 2, "guidance": 0.0, "height": 32, "width": 32}


def embedded(model, prompt):
    text, _, pooled, _ = model.pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    return text, pooled


def test_the_picture_is_the_pipelines_of_the_moved_embeddings(tiny):
    text, pooled = embedded(tiny, "a red cat")
    direction = np.random.default_rng(0).standard_normal(text.shape[-1]).astype(np.float32)
    slider = TokenSlider(tuple(direction.tolist()), (2, 3), (5.0,))
    (made,) = tiny.generate(["a red cat"], seed=4, edits=[slider], **OPTIONS)
    moved = text.clone()
    moved[:, [2, 3]] += 5 * torch.from_numpy(direction)
    expected = tiny.pipeline(
        prompt_embeds=moved, pooled_prompt_embeds=pooled, num_inference_steps=2, guidance_scale=0.0,
        height=32, width=32, generator=torch.Generator().manual_seed(4),
    ).images[0]  # fmt: skip
    (plain,) = tiny.generate(["a red cat"], seed=4, **OPTIONS)
    assert np.array_equal(made, expected)
    assert not np.array_equal(made, plain)


@pytest.mark.filterwarnings("ignore:.*guidance is distilled")
def test_only_its_image_its_branch_and_its_steps_are_moved(tiny):
    seen = []

    def note(_, args, kwargs):
        seen.append(kwargs["encoder_hidden_states"].clone())

    width = embedded(tiny, "a cat")[0].shape[-1]
    slider = TokenSlider((1.0,) + (0.0,) * (width - 1), (1,), (0.0, 2.0))
    with slider.attach(tiny, [1]):
        hook = tiny.unet.register_forward_pre_hook(note, with_kwargs=True)
        try:
            tiny.generate(["a cat", "a cat"], seeds=[0, 1], steps=3, guidance=3.0, height=32, width=32)
        finally:
            hook.remove()
    for step, text in enumerate(seen):
        expected = np.zeros((4, *text.shape[1:]), np.float32)
        if step:
            expected[3, 1, 0] = 2.0  # uncond of both, cond of both
        alone = torch.stack([text[0], text[1], text[2], text[2]])
        np.testing.assert_allclose((text - alone).numpy(), expected, atol=1e-5)


def test_the_second_encoders_part_is_behind_the_first(tiny):
    width = embedded(tiny, "a cat")[0].shape[-1]
    assert TokenSlider((3.0,), (0,), encoder=2)._placed(width)[-1] == 3
    assert TokenSlider((3.0,), (0,), encoder=1)._placed(width)[0] == 3
    with pytest.raises(UnboxError, match=f"should have {width} numbers"):
        tiny.generate(["a cat"], seed=0, edits=[TokenSlider((3.0,), (0,))], **OPTIONS)
    wide = (1.0,) * width
    with pytest.raises(UnboxError, match="tokens = 5000"):
        tiny.generate(["a cat"], seed=0, edits=[TokenSlider(wide, (5000,))], **OPTIONS)


def test_strength_grows_as_saedits():
    found = growing_strength(2.0, 1.5, 5)
    assert found == pytest.approx([min(math.exp(t * 2.0) - 1, 1.5) for t in (0, 0.25, 0.5, 0.75, 1)])
    assert growing_strength(2.0, 9.0, 1) == pytest.approx([math.exp(2) - 1])


def test_words_and_their_direction(tiny):
    places = places_of_word(tiny, "a red cat", "cat")
    ids = tiny.pipeline.tokenizer("a red cat").input_ids
    alone = tiny.pipeline.tokenizer("cat").input_ids[1:-1]
    assert [ids[place] for place in places] == alone
    found = token_direction(tiny, "a red cat", "a cat", "cat")
    first, second = embedded(tiny, "a red cat")[0][0], embedded(tiny, "a cat")[0][0]
    others = list(places_of_word(tiny, "a cat", "cat"))
    expected = first[list(places)].mean(0) - second[others].mean(0)
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-5)
    with pytest.raises(UnboxError, match="is not in"):
        places_of_word(tiny, "a red cat", "dog")


@pytest.mark.parametrize(
    "other", [TokenSlider((1.0,), (0,), encoder=2), HeadScale("mid.0", (0,))], ids=["slider", "heads"]
)
def test_a_file_of_edits_refuses_by_name_what_acts_elsewhere(other, tmp_path):
    with pytest.raises(UnboxError, match=f"a {type(other).__name__} is kept in no file of edits"):
        save_edits(other, tmp_path / "edits.json")
    assert not (tmp_path / "edits.json").exists()
