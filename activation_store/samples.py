"""What is kept beside an image's updates: prompt, seed, facts; and a thumbnail."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from activation_store.errors import StoreError
from activation_store.files import JSON, canonical, digest, parse_json
from activation_store.whole_number import whole_number

#: Fact of a sample whose prompt is too long for the text encoders: how many tokens they cut off.
TOKENS_CUT = "tokens_cut"


@dataclass(frozen=True)
class Sample:
    """One image of a store."""

    index: int
    """Its number in the run that made it: seeds and shards follow from it."""
    prompt: str
    seed: int
    meta: Mapping[str, Any] = field(default_factory=dict)
    """JSON facts that came with the prompt."""
    absent: str | None = None
    """Why the store has no updates of this image, if it has none."""


def check_sample(sample: Sample) -> None:
    """Raise StoreError for a sample that could not be read again as it is."""
    for name in ("index", "seed"):
        whole_number(getattr(sample, name), f"the {name} of a sample", 0)
    if not isinstance(sample.prompt, str):
        raise StoreError(f"the prompt of image {sample.index} is {type(sample.prompt).__name__}, not text")
    try:
        canonical(dict(sample.meta))
    except (TypeError, ValueError) as error:
        raise StoreError(f"the facts of image {sample.index} cannot be kept as JSON: {error}") from None


def pack_samples(samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Samples as one blob of JSON lines and the end of each line."""
    return pack([canonical(_record(sample)) + b"\n" for sample in samples])


def unpack_samples(blob: np.ndarray, ends: np.ndarray, name: str) -> list[Sample]:
    """Inverse of `pack_samples`. Raises StoreError where the blob is not samples."""
    try:
        return [Sample(**parse_json(part, name)) for part in unpack(blob, ends, name)]
    except TypeError as error:
        raise StoreError(f"{name}: not a sample's record: {error}") from None


def prompts_digest(samples: Sequence[Sample]) -> str:
    """Digest of prompts, seeds and facts: two runs that agree on it make the same images.

    TOKENS_CUT is left out: it follows from prompt and model, and versions before did not record it; so is
    `absent`.
    """
    return digest(b"\n".join(canonical(_as_given(sample)) for sample in samples))


def _as_given(sample: Sample) -> dict[str, JSON]:
    meta = {key: value for key, value in sample.meta.items() if key != TOKENS_CUT}
    return _record(replace(sample, meta=meta, absent=None))


def _record(sample: Sample) -> dict[str, JSON]:
    record = asdict(sample)
    return record if sample.absent is not None else {key: record[key] for key in record if key != "absent"}


def pack(parts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Byte strings as one uint8 blob (never empty: HDF5 chunks cannot be) and their ends, int64."""
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    return np.frombuffer(b"".join(parts) or b"\0", np.uint8), ends


def unpack(blob: np.ndarray, ends: np.ndarray, name: str) -> list[bytes]:
    """Inverse of `pack`. Raises StoreError where the ends do not fit the blob."""
    starts = np.concatenate([[0], ends[:-1]])
    if len(ends) and ((ends < starts).any() or ends[-1] > len(blob) or ends[0] < 0):
        raise StoreError(f"{name}: the ends of its parts do not fit its {len(blob):,} bytes")
    data = blob.tobytes()
    return [data[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
