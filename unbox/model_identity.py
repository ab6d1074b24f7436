"""The identity of a model: what of all its facts decides the pictures that it makes."""

import json
from collections.abc import Mapping
from typing import Any

from activation_store.files import canonical
from unbox.json_types import JSON
from unbox.result_cache import key_of

#: What of a system's row decides pictures where a call leaves it open; its scheduler stands beside the row.
#: The others are words (name, title, paper, licence) and places (base, parts, refiner).
SAMPLING = (
    "prediction", "steps", "timesteps", "guidance", "distilled", "size", "split", "image_to_image",
)  # fmt: skip


def model_identity(fingerprint: Mapping[str, Any]) -> str:
    """Short name, hexadecimal, of what decides pictures in a model's `fingerprint`, as it is or as it was
    recorded: the weights in memory (so their dtype too), active LoRAs and strengths, scheduler, sampling.

    Not of it: title and name of the system, where the weights came from, libraries, device.
    """
    facts: JSON = list(identity_facts(fingerprint).values())
    return key_of(json.loads(canonical(facts)))  # numbers as keys sort as the texts that files have


def identity_facts(fingerprint: Mapping[str, Any]) -> dict[str, JSON]:
    """What `model_identity` is of, by name: scheduler, weights, adapters, strengths, sampling."""
    system = fingerprint.get("system", {})
    facts = {name: fingerprint.get(name) for name in ("scheduler", "weights", "adapters")}
    facts["strengths"] = fingerprint.get("strengths", {})
    sampling = {name: system.get(name) for name in SAMPLING}
    # Of rows that leave it to the pipeline nothing is said, as before there was such a field.
    eta = {} if system.get("eta") is None else {"eta": system["eta"]}
    return {**facts, "sampling": sampling | eta}
