"""Labels by a vision-language model behind an OpenAI-compatible endpoint, each tested on other images."""

import base64
import json
import re
import urllib.request
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from itertools import islice
from typing import Annotated

import numpy as np
from annotated_types import Len
from pydantic import StringConstraints

from unbox.atlas.feature_records import Example
from unbox.atlas.labels import set_label
from unbox.atlas.query import Atlas
from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.text_files import parse_json_text
from unbox.validation import HttpAddress, Seed, Text, checked, validated

#: Longest answer that is read, in bytes, and seconds to wait for it.
ANSWER, PATIENCE = 1 << 20, 120.0

NAME = (
    "These images make one feature of an image model's internals fire, the strongest first. "
    "What do they have in common? Answer with a label of at most eight words, nothing else."
)
DETECT = (
    "A feature of an image model fires in images that show: {label}. "
    "In which of these images, numbered from 1, does it fire? Answer with the numbers alone, with commas."
)


@validated
class Endpoint:
    """Where and what to ask."""

    url: HttpAddress
    """Base of the API, e.g. http://localhost:8000/v1."""
    model: Annotated[Text, Len(1, 200)]
    key: Annotated[str, StringConstraints(pattern=r"^[!-~]*$")] = ""

    def ask(self, text: str, images: Sequence[bytes]) -> str:
        """The model's answer about some WebP images. Raises UnboxError where there is none."""
        uris = [f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}" for data in images]
        pictures = [{"type": "image_url", "image_url": {"url": uri}} for uri in uris]
        parts = [{"type": "text", "text": text}, *pictures]
        body = {"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": parts}]}
        key = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        headers = {"Content-Type": "application/json", **key}
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                found = parse_json_text(answer.read(ANSWER).decode(), "its answer")
                content = found["choices"][0]["message"]["content"]  # type: ignore[index,call-overload]
        except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
            raise UnboxError(f"{self.url} gave no answer that can be read: {error}") from error
        if not isinstance(content, str) or not content.strip():
            raise UnboxError(f"{self.url} gave an empty answer")
        return content.strip()


@dataclass(frozen=True)
class Verdict:
    """A label and how it did: balanced accuracy on images that it was not made from (0.5 is chance)."""

    text: str
    score: float | None
    images: int


def label_feature(atlas: Atlas, feature: str | int, endpoint: Endpoint, seed: int = 0) -> Verdict:
    """Ask for a label, test it on random firing and silent images, and keep it in the atlas.

    Raises UnboxError where the feature has no images, or the endpoint does not answer.
    """
    found = find_label(atlas, feature, endpoint, seed)
    keep_label(atlas, feature, found, endpoint, seed)
    return found


def find_label(atlas: Atlas, feature: str | int, endpoint: Endpoint, seed: int = 0) -> Verdict:
    """`label_feature` without keeping it."""
    seed = checked(Seed, "seed", seed, "label")
    top = _pictured(atlas.examples(feature, "top"))[:9]
    if not top:
        raise UnboxError(f"{atlas.feature(feature).name} has no images to show")
    text = " ".join(endpoint.ask(NAME, [_read(each) for each in top]).split())[:200].strip("\"'. ")
    shown = {each.image for each in top}
    firing = [each for each in _pictured(atlas.examples(feature, "random")) if each.image not in shown]
    score, count = detect(endpoint, text, firing, _pictured(atlas.examples(feature, "decoys")), seed)
    return Verdict(text, score, count)


def find_labels(
    atlas: Atlas, features: Sequence[str], endpoint: Endpoint, seed: int = 0, at_once: int = 1
) -> Iterator[tuple[str, Verdict]]:
    """`find_label` of each of many features, so many at a time in threads, which wait for the endpoint; in
    their order. An error, or an end of the caller's loop, asks for no further ones."""
    waiting: deque[tuple[str, Future[Verdict]]] = deque()
    rest = iter(features)
    with ThreadPoolExecutor(at_once) as threads:
        try:
            for name in islice(rest, at_once):
                waiting.append((name, threads.submit(find_label, atlas, name, endpoint, seed)))
            while waiting:
                name, answer = waiting.popleft()
                found = answer.result()
                for new in islice(rest, 1):
                    waiting.append((new, threads.submit(find_label, atlas, new, endpoint, seed)))
                yield name, found
        finally:
            for _, answer in waiting:
                answer.cancel()


def keep_label(atlas: Atlas, feature: str | int, found: Verdict, endpoint: Endpoint, seed: int = 0) -> None:
    """Write a label of `find_label` into the atlas."""
    details: dict[str, JSON] = {"endpoint": endpoint.url, "images": found.images, "seed": seed}
    set_label(atlas, feature, found.text, endpoint.model, kind="model", score=found.score, details=details)


def detect(
    endpoint: Endpoint, label: str, firing: Sequence[Example], silent: Sequence[Example], seed: int
) -> tuple[float | None, int]:
    """Balanced accuracy of the model's choice among shuffled images, and their number; None where a kind is
    missing."""
    if not firing or not silent:
        return None, 0
    images = [*firing, *silent]
    order = np.random.default_rng(seed).permutation(len(images))
    truth = order < len(firing)
    answer = endpoint.ask(DETECT.format(label=label), [_read(images[i]) for i in order])
    numbers = numbers_in(answer)
    chosen = np.array([place in numbers for place in range(1, len(order) + 1)])
    return float((chosen[truth].mean() + (~chosen[~truth]).mean()) / 2), len(images)


def numbers_in(answer: str) -> set[int]:
    """The whole numbers of an answer, however they are set apart: `1, 2 and 5.`, `#3`, `[4]`, `2-4` (both
    included). A number with digits after a point is none."""
    found: set[int] = set()
    for match in re.finditer(r"(?<![\w.])(\d{1,3})(?:\s*[-\u2013]\s*(\d{1,3}))?(?!\w|\.\d)", answer):
        first, last = int(match[1]), int(match[2] or match[1])
        found |= set(range(first, last + 1))
    return found


def _pictured(found: Sequence[Example]) -> list[Example]:
    return [each for each in found if each.thumbnail is not None]


def _read(found: Example) -> bytes:
    assert found.thumbnail is not None
    return found.thumbnail.read_bytes()
