"""How long prompts are in tokens: what is over the length that the text encoders read is cut off by them.

Whoever makes images says so once for all of them: `generate` for its call, collecting for its list.
"""

import json
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from hashlib import sha256
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from tqdm.auto import tqdm

from unbox.models.run_lock import Pipelines, exclusive

#: Texts of a list that are tokenized at once.
CHUNK = 1024
#: What is logged at each call where a prompt is cut off: by whom (None: the pipeline), how it begins.
_LOGGED = (
    (None, "The following part of your input was truncated"),
    ("transformers.tokenization_utils_base", "Token indices sequence length is longer"),
)
_counted: ContextVar[bool] = ContextVar("counted", default=False)


def tokens_cut(model: Pipelines, texts: Sequence[str]) -> list[int]:
    """How many tokens of each text are over what the text encoders read; of several encoders, the most."""
    most = [0] * len(texts)
    for tokenizer in _tokenizers(model):
        # No token is shorter than a byte; two more mark beginning and end.
        limit = tokenizer.model_max_length
        long = [i for i, text in enumerate(texts) if not (text.isascii() and len(text) <= limit - 2)]
        if not long:
            continue
        with exclusive(model, "counting tokens", True):  # a tokenizer keeps how it was last asked to cut
            found = tokenizer([texts[i] for i in long], truncation=False, verbose=False).input_ids
        for i, ids in zip(long, found, strict=True):
            most[i] = max(most[i], len(ids) - limit)
    return most


def count_cut(model: Pipelines, texts: Iterable[str], progress: bool = False) -> tuple[int, int]:
    """How many of the texts are cut off, and how many there are; read a part at a time."""
    cut, rest = 0, iter(texts)
    with tqdm(desc="counting tokens", unit="prompt", leave=False, delay=5, disable=not progress) as bar:
        count = 0
        while part := list(islice(rest, CHUNK)):
            cut, count = cut + sum(tokens > 0 for tokens in tokens_cut(model, part)), count + len(part)
            bar.update(len(part))
    return cut, count


def describe_cut(model: Pipelines, cut: int, count: int) -> str:
    """What happens to the prompts that are too long, in a sentence."""
    limit = min((tokenizer.model_max_length for tokenizer in _tokenizers(model)), default=0)
    what = "1 prompt is" if (cut, count) == (1, 1) else f"{cut:,} of {count:,} prompts are"
    return f"{what} longer than the {limit} tokens that the text encoders read: what is over is cut off"


def warn_of_cut(model: Pipelines, texts: Iterable[str]) -> None:
    """Warn (UserWarning), once, of how many different texts are cut off; not inside of `counted`."""
    if not _counted.get():
        cut, count = count_cut(model, filter(None, dict.fromkeys(texts)))
        if cut:
            warnings.warn(describe_cut(model, cut, count), stacklevel=4)


@contextmanager
def counted() -> Iterator[None]:
    """Inside, `generate` warns of no prompt that is too long: the caller counts all of them."""
    token = _counted.set(True)
    try:
        yield
    finally:
        _counted.reset(token)


@contextmanager
def unlogged(pipeline: DiffusionPipeline) -> Iterator[None]:
    """Inside, the libraries log no line for a prompt that is cut off: it was counted and said."""
    own = sys.modules[type(pipeline).__module__].__name__
    with ExitStack() as stack:
        for name, beginning in _LOGGED:
            logger, hidden = logging.getLogger(name or own), _Hidden(beginning)
            logger.addFilter(hidden)
            stack.callback(logger.removeFilter, hidden)
        yield


class _Hidden(logging.Filter):
    """Drops the lines that begin so."""

    def __init__(self, beginning: str) -> None:
        super().__init__()
        self.beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self.beginning)


def _tokenizers(model: Pipelines) -> list[Any]:
    """The tokenizers of the text encoders; of equal ones, as SDXL's two, one."""
    found: list[Any] = []
    for pipeline in model.pipelines:
        for each in (getattr(pipeline, "tokenizer", None), getattr(pipeline, "tokenizer_2", None)):
            if each is not None and not any(_equal(each, other) for other in found):
                found.append(each)
    return found


def _equal(first: Any, second: Any) -> bool:
    return first is second or (
        first.model_max_length == second.model_max_length and _vocabulary(first) == _vocabulary(second)
    )


#: Of tokenizers their length and a digest of their words: SDXL's two have 49,408 each, 30 ms to list.
_VOCABULARIES: "WeakKeyDictionary[Any, tuple[int, bytes]]" = WeakKeyDictionary()


def _vocabulary(tokenizer: Any) -> tuple[int, bytes]:
    known = _VOCABULARIES.get(tokenizer)
    if known is None or known[0] != len(tokenizer):
        words = json.dumps(sorted(tokenizer.get_vocab().items())).encode()
        known = _VOCABULARIES[tokenizer] = len(tokenizer), sha256(words).digest()
    return known
