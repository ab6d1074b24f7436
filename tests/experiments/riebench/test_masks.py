"""RIEBench's masks on the grids of blocks."""

import numpy as np
import pytest
import torch

from unbox.errors import UnboxError
from unbox.experiments.riebench.masks import attention_mask, on_grid
from unbox.models.token_places import token_places


def picture(rows, columns, size=(512, 512)):
    mask = np.zeros(size)
    mask[rows, columns] = 1
    return mask


def lanczos(x):
    """OpenCV's INTER_LANCZOS4 between two pixels: eight taps sinc(x) sinc(x / 4) of sum 1."""
    taps = np.sinc(x) * np.sinc(x / 4)
    return taps / taps.sum()


def test_a_mask_is_widened_and_sampled_at_the_middle_of_each_place():
    """Place 8 of 16 has its middle between pixels 271 and 272: the window reaches from 268 to 275."""
    taps = lanczos(np.arange(-3.5, 4.5))
    for first in range(200, 330):
        mask = picture(slice(first, first + 1), slice(0, 512))
        wide = np.zeros(512)
        wide[max(first - 15, 0) : first + 16] = 1
        expected = [(taps * wide[32 * i + 12 : 32 * i + 20]).sum() > 1e-6 for i in range(16)]
        found = on_grid(mask, 16, 16)
        if any(expected):
            assert found[:, 3].tolist() == expected, first
            assert (found == found[:, :1]).all()


def test_any_canvas_and_grid():
    mask = picture(slice(0, 288), slice(0, 1024), (576, 1024))
    found = on_grid(mask, 9, 16)
    assert found.shape == (9, 16)
    assert found[:5].all()
    assert not found[6:].any()
    assert on_grid(None, 9, 16).all()
    small = on_grid(np.eye(16), 4, 4, widened=False)
    assert small.any()


def test_a_mask_between_the_windows_takes_the_place_with_most_of_it():
    small = picture(slice(480, 481), slice(496, 497), (4096, 4096))
    found = on_grid(small, 16, 16)
    assert found.sum() == 1
    assert found[1, 1]
    with pytest.raises(UnboxError, match="nowhere"):
        on_grid(np.zeros((64, 64)), 16, 16)


def test_attention_of_grids_that_do_not_divide_is_averaged():
    maps = [torch.rand(2, 1, 2, *grid, 77, generator=torch.Generator().manual_seed(i)) for i, grid in
            enumerate(((9, 16), (18, 32), (5, 7)))]  # fmt: skip

    class Tokenizer:
        model_max_length = 77

        def __call__(self, text, truncation):
            return type("Ids", (), {"input_ids": [0, *range(len(text.split())), 1]})()

    found = attention_mask(Tokenizer(), maps, "a red cat", ["red"])
    assert found.shape == (18, 32)
    assert set(np.unique(found)) == {0, 1}
    assert attention_mask(Tokenizer(), maps, "a red cat", []) is None


def test_words_are_found_among_the_tokens(tiny):
    tokenizer = tiny.pipeline.tokenizer
    text = "a red boat and a cat"
    ids = tokenizer(text).input_ids
    for word in ("red", "boat", "a cat"):
        found = [ids[i] for i in token_places(tokenizer, text, word)]
        assert found == tokenizer(word).input_ids[1:-1]
    assert token_places(tokenizer, text, "dog") == []
