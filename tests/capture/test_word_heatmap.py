"""Heat maps of words beside the recorded maps, averaged by hand."""

import numpy as np
import pytest

import unbox
from unbox.capture.word_heatmap import word_heatmap
from unbox.errors import UnboxError
from unbox.models.token_places import token_places


def test_a_words_heat_is_the_mean_of_its_maps(model):
    with unbox.record(model, ["mid.0"], ("cross",)) as tape:
        model.generate(["a dog", "a red cat"], seeds=[0, 1], steps=2, guidance=0.0, height=64, width=64)
    found = word_heatmap(tape, model, "a red cat", "red cat", sample=1)
    keys = token_places(model.pipeline.tokenizer, "a red cat", "red cat")
    recorded = tape.read("mid.0", "cross", "cond")[1].float().numpy()
    np.testing.assert_allclose(found, recorded[..., keys].sum(-1).mean((0, 1, 2)), rtol=1e-5)
    large = word_heatmap(tape, model, "a red cat", "red cat", sample=1, height=64, width=64)
    assert large.shape == (64, 64)
    assert large.mean() == pytest.approx(found.mean(), rel=0.05)
    with pytest.raises(UnboxError, match="'fox' is not in"):
        word_heatmap(tape, model, "a red cat", "fox")
    with pytest.raises(UnboxError, match="there is no image 2"):
        word_heatmap(tape, model, "a red cat", "cat", sample=2)
