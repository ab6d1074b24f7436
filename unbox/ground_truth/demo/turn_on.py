"""Turning one factor value on with a small set of features, beside random features of equal norm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import NotRequired, TypedDict

import numpy as np

from unbox.edit import Edits, Feature
from unbox.edits import bind, random_control
from unbox.ground_truth.demo.demo_plan import QUALITY
from unbox.ground_truth.demo.feature_search import Weighted
from unbox.ground_truth.effects import Cases, ModelUnderTest, Outcome, Recipe, measure
from unbox.ground_truth.factor_scores import Value
from unbox.image_uri import image_uri
from unbox.json_types import JSON
from unbox.mask import Mask
from unbox.sae import SAE
from unbox.shapes import Scene
from unbox.shapes.where import edit_mask

#: Success on trial cases that is given up for leaving the other factors alone.
SLACK = 0.1

#: How many test pictures the report shows of each edit.
SHOWN = 6

Saes = Mapping[str, SAE]  # block -> SAE


@dataclass(frozen=True)
class Addition:
    """Weighted features of several blocks, added together `strength` times."""

    parts: tuple[Weighted, ...]
    strength: float

    @property
    def names(self) -> list[str]:
        """`up.0.1/17` and so on."""
        return [f"{part.block}/{part.latent}" for part in self.parts]

    def edits(self, saes: Saes, where: Mask | None) -> Edits:
        """The edit, over `where`."""
        adds = Edits()
        for block, latent, weight in self.parts:
            feature = Feature(block, latent, saes[block])
            adds += feature.add(self.strength * weight, unit="absolute", where=where)
        return adds


class Counts(TypedDict):
    """An outcome: successes, pictures, the share of other factors that read as before, and artifacts."""

    hits: int
    n: int
    kept: float
    artifacts: NotRequired[int]
    """Not in results of versions before."""


class MeasuredEdit(TypedDict):
    """What an addition and its random control do, as the report shows it."""

    factor: str
    value: str
    features: list[str]
    edits: list[dict[str, JSON]]
    strength: float
    edited: Counts
    pictures: list[dict[str, str]]
    control: NotRequired[Counts]


def choose(
    subject: ModelUnderTest, cases: Cases, value: Value, additions: Sequence[Addition], saes: Saes
) -> Addition:
    """Of the additions that succeed nearly as often as the best, the one that changes other factors least."""
    outcomes = [measure(subject, cases, recipe_of(a, saes, value), value) for a in additions]
    enough = max(outcome.success.mean() for outcome in outcomes) - SLACK
    harms = [o.collateral.mean() if o.success.mean() >= enough else np.inf for o in outcomes]
    return additions[int(np.argmin(harms))]


def recipe_of(addition: Addition, saes: Saes, value: Value) -> Recipe:
    """The addition where an edit of the value's factor acts."""
    return lambda scene: addition.edits(saes, edit_mask(value[0], scene))


def assess(
    subject: ModelUnderTest, cases: Cases, value: Value, addition: Addition, saes: Saes
) -> MeasuredEdit:
    """What an addition does to cases."""
    edited = measure(subject, cases, recipe_of(addition, saes, value), value)
    shown = zip(cases.prompts, cases.images, edited.images, strict=True)
    return {
        "factor": value[0],
        "value": value[1],
        "features": addition.names,
        "edits": [edit.to_json() for edit in addition.edits(saes, None)],
        "strength": addition.strength,
        "edited": counted(edited),
        "pictures": [
            {"caption": p.text, "before": str(b), "after": image_uri(a, quality=QUALITY)}
            for p, b, a in list(shown)[:SHOWN]
        ],
    }


def with_control(
    subject: ModelUnderTest, cases: Cases, saes: Saes, made: MeasuredEdit, seed: int
) -> MeasuredEdit:
    """The same beside the edit's random control, drawn anew for each case."""
    edits, draws = bind(Edits.from_json(made["edits"]), saes), count()

    def control(scene: Scene) -> Edits:
        where = edit_mask(made["factor"], scene)
        return random_control(Edits(tuple(replace(e, where=where) for e in edits)), (seed, next(draws)))

    outcome = measure(subject, cases, control, (made["factor"], made["value"]))
    pictures = [
        {**shown, "control": image_uri(image, quality=QUALITY)}
        for shown, image in zip(made["pictures"], outcome.images, strict=False)
    ]
    return {**made, "control": counted(outcome), "pictures": pictures}


def counted(outcome: Outcome) -> Counts:
    """An outcome in numbers."""
    hits, n = int(outcome.success.sum()), len(outcome.success)
    kept, artifacts = float(1 - outcome.collateral.mean()), int(outcome.artifacts.sum())
    return {"hits": hits, "n": n, "kept": kept, "artifacts": artifacts}
