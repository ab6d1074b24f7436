"""Named directions of a block as an SAE: steering vectors, probes, differences of means, factors.

An SAE whose latents are the unit vectors, all active, each code the positive part of the projection of an
update less the mean update. So it goes wherever SAEs go: atlas, explorer, edits, experiments. What each
direction is called, of which kind it is, how long it was and which features it is made of are kept beside the
weights.
"""

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt, Len

from unbox.edit import Edit
from unbox.errors import FieldError, UnboxError
from unbox.sae.latent_statistics import latent_stats
from unbox.sae.model import SAE
from unbox.site import BlockName
from unbox.validation import JSONObject, Name, Real, Several, Text, checked, parsed, validated

#: Where an SAE's `meta` has the list of what its directions are.
META = "directions"
#: Ops that a direction has as well as a feature.
_OPS = ("add", "scale", "set", "replace")

Label = Annotated[Text, Len(1, 200)]


@validated
class NamedDirection:
    """What a direction is."""

    label: Label
    kind: Label = "direction"
    """`steering vector`, `probe`, `difference of means`, `factor`, or another word."""
    length: Annotated[Real, Gt(0)] = 1.0
    """Norm of the vector as it was given."""
    parts: JSONObject = field(default_factory=dict)
    """Of a factor: name of each feature -> its weight."""


def direction_set(
    block: str, vectors: Mapping[str, np.ndarray], rows: np.ndarray, *, kind: str = "steering vector",
    parts: Mapping[str, Mapping[str, float]] | None = None, name: str = "",
) -> SAE:  # fmt: skip
    """Vectors (d,) by label as an SAE of a block, named `BLOCK-KIND` unless `name` says more.

    rows (m, d): a sample of the block's updates (`store[block].sample(20_000)`), which the mean, the
    deviation and each direction's statistics are taken over. `parts`: by label, the features that a vector is
    made of. Raises UnboxError for no vectors, and those that are zero, not finite or of another width.
    """
    block, kind = checked(BlockName, "block", block, "direction_set"), checked(Label, "kind", kind)
    sample = torch.as_tensor(np.asarray(rows), dtype=torch.float32)
    if sample.ndim != 2 or not len(sample) or not bool(sample.isfinite().all()):
        raise FieldError("direction_set", "rows", rows, "should be finite updates (m, d), at least one")
    if not vectors:
        raise FieldError("direction_set", "vectors", vectors, "should be at least one, by label")
    given = torch.stack([_vector(label, each, sample.shape[1]) for label, each in vectors.items()])
    lengths = given.norm(dim=1)
    described = [
        NamedDirection(label, kind, float(length), dict((parts or {}).get(label, {})))
        for label, length in zip(vectors, lengths, strict=True)
    ]
    unit = given / lengths[:, None]
    return measured(
        SAE(unit, unit.clone(), sample.mean(0), torch.zeros(len(unit)), len(unit), block,
            checked(Name, "name", name or f"{block}-{kind.replace(' ', '-')}"), meta=meta_of(described)),
        sample,
    )  # fmt: skip


def measured(sae: SAE, rows: torch.Tensor) -> SAE:
    """The SAE with the latents' statistics and the updates' deviation over rows (m, d)."""
    deviation = float((rows - rows.mean(0)).square().sum(1).mean().sqrt())
    return replace(sae, stats=latent_stats(sae, rows.split(4096)), update_std=deviation)


def meta_of(described: Several[NamedDirection] | list[NamedDirection]) -> dict[str, list]:
    """What is kept of directions in an SAE's `meta`."""
    return {META: [dict(vars(each)) for each in described]}


def directions_of(sae: SAE) -> tuple[NamedDirection, ...]:
    """What an SAE's latents are, where they are named directions; none for other SAEs. Raises FieldError for
    a list that is damaged."""
    found = sae.meta.get(META)
    if found is None:
        return ()
    if not isinstance(found, list) or len(found) != sae.latents:
        raise FieldError(f"the SAE {sae.name}", META, found, f"should be a list of {sae.latents} directions")
    return tuple(parsed(NamedDirection, each, f"the SAE {sae.name}: {META}") for each in found)


def as_direction(edit: Edit) -> Edit:
    """An edit of one feature of a set of directions as that of its vector, whose random control is a random
    vector; other edits as they are."""
    sae = edit.sae
    if not isinstance(sae, SAE) or not directions_of(sae) or len(edit.feature) != 1 or edit.op not in _OPS:
        return edit
    vector = tuple(sae.W_dec[edit.feature[0]].detach().float().cpu().tolist())
    if edit.unit != "mean":
        return replace(edit, feature=(), direction=vector)
    if sae.stats is None:
        raise UnboxError(f"{edit.summary}: the SAE {sae.name} has no statistics")
    mean = float(sae.stats.mean_active[edit.feature[0]])
    value = tuple(mean * v for v in edit.value) if isinstance(edit.value, tuple) else mean * edit.value
    return replace(edit, feature=(), direction=vector, unit="absolute", value=value)


def plain_direction(edit: Edit) -> Edit:
    """An edit of one feature of a set of directions, with its SAE, as one that needs no SAE: of the vector
    itself, its value in absolute units. Edits that cannot be of a vector (`swap`) as they are."""
    found = as_direction(edit)
    if found.subject != "direction" or not isinstance(edit.sae, SAE):
        return edit
    if found.unit == "deviation":
        unit = float(edit.sae.update_std) / float(torch.tensor(found.direction).norm())
        value = found.value
        scaled = tuple(unit * v for v in value) if isinstance(value, tuple) else unit * value
        found = replace(found, unit="absolute", value=scaled)
    return replace(found, source=None, sae=None)


def _vector(label: str, given: np.ndarray, width: int) -> torch.Tensor:
    vector = torch.as_tensor(np.asarray(given), dtype=torch.float32)
    if vector.shape != (width,) or not bool(vector.isfinite().all()) or not bool(vector.any()):
        rule = f"should be a finite vector of width {width} that is not zero"
        raise FieldError("direction_set", f"vectors[{label!r}]", given, rule)
    return vector
