"""How strongly features are added: calibrated on pictures of a critic's world, towards what their labels say.

Which factor a label names, the smallest strength at which its value is read in most pictures, the strangeness
that 5 % of unedited pictures pass, and the file that keeps them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from activation_store import write_json
from unbox.edit import Edits, Feature
from unbox.errors import UnboxError
from unbox.experiments.calibration import SPOILT, Calibration, Tried, calibrate
from unbox.experiments.critics import Critic, ImagePair
from unbox.experiments.picture_density import artifact_threshold
from unbox.json_types import JSON
from unbox.prompt import Prompt
from unbox.text_files import read_json_object
from unbox.validation import JSONObject, NotNegative, Positive, Text, parsed, validated

#: Pictures that a strength is tried on, unedited ones that set what is usual, and the share of pictures in
#: which a value is to be read.
PICTURES, USUAL, REACH = 24, 64, 0.6
#: Strengths beyond the calibrated one, in it, of which the one to begin with is chosen.
BEYOND = (1.25, 1.5, 2.0)

#: Pictures of some prompts and seeds, with edits or without.
Draw = Callable[[Sequence[Prompt], Sequence[int], Edits | None], list[Image.Image]]
#: A critic's factor, and a value of it.
Target = tuple[str, str]


def target_of(label: str, critic: Critic) -> Target | None:
    """The factor and value of a critic that a label names, by the first of its words that is one."""
    values: dict[str, str] = {}
    for factor, each in critic.targets.items():
        values |= {value: factor for value in each if value not in values}
    return next(((values[word], word) for word in label.replace(",", " ").split() if word in values), None)


class StrengthTrials:
    """Pictures of a critic's world on which strengths are tried; unedited ones are drawn once."""

    def __init__(self, draw: Draw, critic: Critic) -> None:
        """Raises UnboxError for a critic that cannot tell what is strange."""
        if critic.strangeness is None:
            raise UnboxError(
                f"the critic '{critic.name}' tells no artifacts: no strength is calibrated by it"
            )
        self._draw, self._critic, self._strangeness = draw, critic, critic.strangeness
        self._prompts, self._seeds = critic.prompts(USUAL), range(USUAL)

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
        return self._draw([self._prompts[i] for i in pictures], [self._seeds[i] for i in pictures], edits)

    def spoilt(self, images: Sequence[Image.Image]) -> float:
        """Share of artifacts."""
        return float(np.mean(self._strangeness(images) > self.usual))

    def calibrated(self, feature: Feature, target: Target) -> Calibration:
        """The smallest strength found, in deviations of the block's updates, at which adding the feature
        brings about the target in `REACH` of the pictures that lack it, and at most 10 % are artifacts."""
        measure = self._measure(self.lacking(target), target)
        return calibrate(measure, Edits((feature.add(1.0, unit="deviation"),)), REACH)

    def start(self, feature: Feature, target: Target, calibration: Calibration) -> float:
        """The strength to begin with, in deviations: of those tried and those of `BEYOND` with at most 10 %
        of artifacts the one with most effect, and of these the smallest."""
        measure, tried = self._measure(self.lacking(target), target), list(calibration.tried)
        for each in BEYOND:
            strength = each * calibration.strength
            tried.append(Tried(strength, *measure(Edits((feature.add(strength, unit="deviation"),)))))
            if tried[-1].artifacts > SPOILT:
                break
        clean = [each for each in tried if each.artifacts <= SPOILT]
        return max(clean, key=lambda each: (each.effect, -each.strength)).strength

    def _measure(self, pictures: list[int], target: Target) -> Callable[[Edits], tuple[float, float]]:
        """From edits to the share of the pictures in which the target is read, and that of artifacts."""

        def measure(edits: Edits) -> tuple[float, float]:
            after = self.drawn(pictures, edits)
            read = self.read(pictures, after, target)
            return float(np.mean([row["success"] for row in read])), self.spoilt(after)

        return measure


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
    by_hand: bool = False
    """Whether somebody chose it, and no trials did."""


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
    told: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Calibrate features by name towards their targets, and keep the first that reaches each."""
    found: dict[str, Mapping[str, JSON]] = {}
    reached: set[Target] = set()
    for name, feature, target in features:
        if target in reached:
            continue
        result = trials.calibrated(feature, target)
        told(f"{name} {' '.join(target)}: {result.strength:.2f}{'' if result.reached else ', not enough'}")
        if result.reached:
            reached.add(target)
            factor, value = target
            start = trials.start(feature, target, result)
            found[name] = {"strength": round(result.strength, 2), "start": round(start, 2),
                           "factor": factor, "value": value}  # fmt: skip
    write_json(path, {"usual": round(trials.usual, 4), "features": found})
