"""How strongly features are added: calibrated on pictures of a critic's world, towards what they are called.

The smallest strength at which its value is read in most pictures, the strangeness
that 5 % of unedited pictures pass, and the file that keeps them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import BeforeValidator

from activation_store import write_json
from unbox.edit import Edits, Feature
from unbox.errors import UnboxError
from unbox.experiments.calibration import Calibration, Tried
from unbox.experiments.critics import Critic, ImagePair
from unbox.experiments.picture_density import artifact_threshold
from unbox.json_types import JSON
from unbox.prompt import Prompt
from unbox.text_files import read_json_object
from unbox.validation import (
    Count,
    JSONObject,
    NotNegative,
    Positive,
    Several,
    Share,
    Text,
    parsed,
    validated,
)

#: Pictures that a strength is tried on, unedited ones that set what is usual, and the share of pictures in
#: which a value is to be read.
PICTURES, USUAL, REACH = 24, 64, 0.6
#: Share of artifacts that is allowed: three of 24 pictures, where one or two are artifacts unedited.
SPOILT = 0.125
#: Strengths that are tried, in deviations: each √2 times the one before.
STRENGTHS = (2.0, 2.83, 4.0, 5.66, 8.0, 11.3)

#: Pictures of some prompts and seeds, each with its own edits or all without.
Draw = Callable[[Sequence[Prompt], Sequence[int], Sequence[Edits] | None], list[Image.Image]]
#: A critic's factor, and a value of it.
Target = tuple[str, str]


class StrengthTrials:
    """Pictures of a critic's world on which strengths are tried; unedited ones are drawn once.

    `place`: where edits act, one of the critic's places; None is everywhere. `seed`: of the captions; trials
    with another are of other pictures.
    """

    def __init__(self, draw: Draw, critic: Critic, *, place: str | None = None, seed: int = 0) -> None:
        """Raises UnboxError for a critic that cannot tell what is strange."""
        if critic.strangeness is None:
            raise UnboxError(
                f"the critic '{critic.name}' tells no artifacts: no strength is calibrated by it"
            )
        self._draw, self._critic, self._strangeness = draw, critic, critic.strangeness
        self._prompts, self._seeds = critic.prompts(USUAL, seed=seed), range(USUAL)
        self._place = place

    @cached_property
    def _plain(self) -> list[Image.Image]:
        return self._draw(self._prompts, self._seeds, None)

    @cached_property
    def usual(self) -> float:
        """Strangeness that 5 % of unedited pictures pass."""
        return artifact_threshold(self._strangeness(self._plain))

    def read(self, pictures: Sequence[int], after: Sequence[Image.Image], target: Target | None) -> list:
        """The figures of the critic's metrics for some of the pictures, by their places, and edited ones."""
        pairs = [ImagePair(self._plain[i], image, self._prompts[i].text, None, target)
                 for i, image in zip(pictures, after, strict=True)]  # fmt: skip
        found: list[dict[str, float]] = [{} for _ in pairs]
        for metric in self._critic.metrics.values():
            for row, figures in zip(found, metric(pairs), strict=True):
                row |= figures
        return found

    def lacking(self, target: Target) -> list[int]:
        """Places of the first pictures that lack a value."""
        rows = self.read(range(USUAL), self._plain, target)
        return [i for i, row in enumerate(rows) if not row["had"]][:PICTURES]

    def drawn(self, pictures: Sequence[int], edits: Edits) -> list[Image.Image]:
        """Some of the pictures with edits."""
        prompts = [self._prompts[i] for i in pictures]
        placed = [self._placed(edits, prompt) for prompt in prompts]
        return self._draw(prompts, [self._seeds[i] for i in pictures], placed)

    def _placed(self, edits: Edits, prompt: Prompt) -> Edits:
        if self._place is None:
            return edits
        where = self._critic.place_mask(self._place, prompt)
        return Edits(tuple(replace(edit, where=where) for edit in edits))

    def spoilt(self, images: Sequence[Image.Image]) -> float:
        """Share of artifacts."""
        return float(np.mean(self._strangeness(images) > self.usual))

    def calibrated(self, feature: Feature, target: Target) -> Calibration:
        """The smallest of `STRENGTHS`, in deviations of the block's updates, at which adding the feature
        brings about the target in `REACH` of the pictures that lack it, and at most `SPOILT` are artifacts.

        None is passed over: halfway to another colour more pictures are artifacts than all the way."""
        pictures, tried = self.lacking(target), list[Tried]()
        for strength in STRENGTHS:
            tried.append(Tried(strength, *self._tried(pictures, feature, target, strength)))
            if tried[-1].effect == 1 and tried[-1].artifacts <= SPOILT:
                break  # more is no better
        clean = [each for each in tried if each.artifacts <= SPOILT]
        good = [each for each in clean if each.effect >= REACH]
        most = max(clean, key=_effect, default=None)
        found = good[0] if good else most
        return Calibration(0.0 if found is None else found.strength, bool(good), tuple(tried))

    def at(self, feature: Feature, target: Target, strength: float) -> "AtStrength":
        """What a strength, in deviations, gives in the pictures that lack the target."""
        pictures = self.lacking(target)
        return AtStrength(strength, len(pictures), *self._tried(pictures, feature, target, strength))

    def _tried(
        self, pictures: Sequence[int], feature: Feature, target: Target, strength: float
    ) -> tuple[float, float]:
        """Shares of the pictures in which the target is read, and of artifacts."""
        after = self.drawn(pictures, Edits((feature.add(strength, unit="deviation"),)))
        read = self.read(pictures, after, target)
        return float(np.mean([row["success"] for row in read])), self.spoilt(after)


def start_of(calibration: Calibration) -> float:
    """The strength to begin with, in deviations: of those tried with few enough artifacts the one with
    most effect, and of these the smallest."""
    return max((each for each in calibration.tried if each.artifacts <= SPOILT), key=_effect).strength


def _effect(tried: Tried) -> tuple[float, float]:
    return tried.effect, -tried.strength


@validated
class AtStrength:
    """What a strength gives in pictures that nothing was chosen by."""

    strength: Positive
    """In deviations."""
    pictures: Count
    """That lack the value without the edit."""
    read: Share
    """Of them, the share in which the value is read."""
    artifacts: Share


def _row(value: object) -> AtStrength:
    return value if isinstance(value, AtStrength) else parsed(AtStrength, value, "held_out")


@validated
class FeatureStrength:
    """What is known of a feature's strength."""

    strength: Positive
    """The smallest at which the value is read in most pictures, in deviations of its block's updates."""
    factor: Text
    value: Text
    start: Positive | None = None
    """The strength to begin with, in the same: with most effect and few artifacts. None: `strength`, in files
    of versions before."""
    held_out: Several[Annotated[AtStrength, BeforeValidator(_row)]] = ()
    """What `strength` and `start` give in other pictures than those that they were chosen by."""


@validated
class FeatureStrengths:
    """Calibrated strengths of a model's features, by name, and what is usual among its unedited pictures."""

    usual: NotNegative
    """Strangeness that 5 % of unedited pictures pass."""
    features: JSONObject = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, each in self.features.items():
            parsed(FeatureStrength, each, f"features: {name}")

    @property
    def known(self) -> dict[str, FeatureStrength]:
        """By a feature's name."""
        return {name: parsed(FeatureStrength, each, name) for name, each in self.features.items()}


def read_strengths(path: Path) -> FeatureStrengths:
    """The file of `write_strengths`. Raises UnboxError that names what is wrong with it."""
    return parsed(FeatureStrengths, read_json_object(path), str(path))


def write_strengths(
    path: Path, trials: StrengthTrials, features: Iterable[tuple[str, Feature, Target]],
    held_out: StrengthTrials, told: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Calibrate features by name towards their targets, and keep the first that reaches each, with what it
    does in the pictures of `held_out`."""
    found: dict[str, Mapping[str, JSON]] = {}
    reached: set[Target] = set()
    for name, feature, target in features:
        if target in reached:
            continue
        result = trials.calibrated(feature, target)
        told(f"{name} {' '.join(target)}: {result.strength:.2f}{'' if result.reached else ', not enough'}")
        if result.reached:
            reached.add(target)
            strength, start = round(result.strength, 2), round(start_of(result), 2)
            rows = [held_out.at(feature, target, each) for each in dict.fromkeys((strength, start))]
            for row in rows:
                told(f"  held out, at {row.strength}: {row.read:.2f} of {row.pictures}, "
                     f"artifacts {row.artifacts:.2f}")  # fmt: skip
            factor, value = target
            found[name] = {"strength": strength, "start": start, "factor": factor, "value": value,
                           "held_out": [dict(vars(row)) for row in rows]}  # fmt: skip
    write_json(path, {"usual": round(trials.usual, 4), "features": found})
