"""Prompts that are longer than the text encoders read: counted, and said once."""

import logging
import warnings
from dataclasses import replace

import pytest

from unbox.models.prompt_length import count_cut, tokens_cut

#: Of tokens: "a", "cat" and the like are one each, beside one for the beginning and one for the end.
FITS, LONG, LONGER = "a cat " * 37 + "a", "a cat " * 38, "a cat " * 50
SAID = "1 of 2 prompts are longer than the 77 tokens that the text encoders read: what is over is cut off"


@pytest.fixture
def told(model):
    """What the libraries log while it is asked."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in (type(model.pipeline).__module__, "transformers")]
    for logger in loggers:
        logger.addHandler(handler)
    yield lines
    for logger in loggers:
        logger.removeHandler(handler)


def test_tokens_over_the_length_are_counted(model):
    letters = "z" * 75  # a token each
    texts = [FITS, LONG, LONGER, "", "a cat", letters, letters + "zz", "\u00e4" * 40]
    assert tokens_cut(model, texts) == [0, 1, 25, 0, 0, 0, 2, tokens_cut(model, ["\u00e4" * 40])[0]]
    ids = model.pipeline.tokenizer(LONGER, truncation=False, verbose=False).input_ids
    assert len(ids) == 77 + 25
    assert count_cut(model, (LONG if i % 3 == 0 else FITS for i in range(3000))) == (1000, 3000)


def test_the_encoder_that_reads_least_decides(tiny):
    from unbox.models import load

    model = load(tiny, system=replace(load(tiny).system, size=64))
    model.pipeline.tokenizer_2.model_max_length = 40
    assert tokens_cut(model, [FITS, LONG]) == [37, 38]


def test_generating_warns_once_and_logs_nothing(model, told):
    settings = {"steps": 1, "guidance": 0.0, "output": "latent", "batch_size": 1, "seed": 1}
    with pytest.warns(UserWarning, match=SAID) as caught:
        model.generate(["a cat", LONG, LONG], **settings)
    ours = [each for each in caught if each.category is UserWarning]
    assert [each.filename for each in ours] == [__file__]
    assert told == []
    with pytest.warns(UserWarning, match="the text encoders read"):
        model.generate("a cat", negative_prompt=LONG, **{**settings, "guidance": 2.0})
    with warnings.catch_warnings(action="error", category=UserWarning):
        model.generate(FITS, **settings)
