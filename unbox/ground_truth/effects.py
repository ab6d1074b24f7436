"""What edits cause in the Shapes world: does the factor change, and do the others stay?

Success is read by the detector, never by eye: an edit towards a value succeeds in an image when slot 0 (or
the scene) has the value afterwards. Collateral is the share of the other factors whose reading changed from
the image's own unedited version. Whether the picture is an artifact, a second critic says. Controls are
random features of the same block and norm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import TypedDict

import numpy as np
from PIL import Image

from unbox.edit import Edits
from unbox.errors import UnboxError
from unbox.ground_truth.artifacts import CRITIC, MOST, SEED, ArtifactRule, FactorCritic
from unbox.ground_truth.factor_scores import Value
from unbox.models import Model
from unbox.models.hooks import Attachable
from unbox.prompt import Prompt
from unbox.shapes import FACTORS, OBJECT_FACTORS, Scene, Split, prompts
from unbox.shapes.detector import Detector, Picture, Reading
from unbox.shapes.factor_critics import load_critic

#: Edits for one image, from its scene (for its mask).
Recipe = Callable[[Scene], Edits]


@dataclass(frozen=True)
class Cases:
    """Prompts, seeds, and the unedited images with what the detector reads in them."""

    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    images: tuple[Image.Image | str, ...]
    """Pictures, or their data URIs."""
    readings: tuple[dict[str, str], ...]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def scenes(self) -> list[Scene]:
        return [Scene.from_json(prompt.meta["scene"]) for prompt in self.prompts]

    def lacking(self, value: Value, limit: int | None = None) -> "Cases":
        """The cases whose unedited image does not have the value: those that an edit could flip."""
        return self.where([reading[value[0]] != value[1] for reading in self.readings], limit)

    def having(self, value: Value, limit: int | None = None) -> "Cases":
        """The cases whose unedited image has the value: those in which it could be removed."""
        return self.where([reading[value[0]] == value[1] for reading in self.readings], limit)

    def where(self, chosen: Sequence[bool], limit: int | None = None) -> "Cases":
        """The first `limit` of the chosen cases."""
        columns = self.prompts, self.seeds, self.images, self.readings
        return Cases(*(tuple(compress(column, chosen))[:limit] for column in columns))  # type: ignore[arg-type]


class CaseSampling(TypedDict, total=False):
    """Options of `generate` that every picture of a test shares."""

    steps: int | None
    guidance: float | None
    batch_size: int


@dataclass(frozen=True)
class ModelUnderTest:
    """A model that draws the Shapes world, the detector that reads it, and how all pictures are sampled."""

    model: Model
    detector: Detector
    sampling: CaseSampling
    critic: FactorCritic | None = None
    """Who says what is an artifact, another than the detector; None: the bundled one."""
    unedited: int = MOST
    """Unedited pictures by which it is told."""

    @classmethod
    def read_by(
        cls, model: Model, sampling: CaseSampling, unedited: int, critic: FactorCritic | None = None
    ) -> "ModelUnderTest":
        """A model read by the bundled networks, on its device."""
        usual = critic or load_critic(CRITIC).on(model.device)
        return cls(model, Detector.load().on(model.device), sampling, usual, unedited)

    @cached_property
    def artifact_rule(self) -> ArtifactRule:
        """Which pictures are artifacts, by unedited ones of the model, drawn when first asked for: the same
        in every run."""
        captions = prompts(self.unedited, seed=SEED, split="heldout", full=True, pairs=0.0)
        seeds = [SEED * 1_000_003 + i for i in range(self.unedited)]
        unedited = self.draw([prompt.text for prompt in captions], seeds)
        return ArtifactRule.of(load_critic(CRITIC) if self.critic is None else self.critic, unedited)

    def draw(
        self, texts: Sequence[str], seeds: Sequence[int], edits: Sequence[Attachable | None] | None = None
    ) -> list[Image.Image]:
        """An image for each text and seed, with its edits."""
        return self.model.generate(list(texts), seeds=list(seeds), edits=edits, **self.sampling)

    def cases(self, count: int, seed: int = 0, split: Split = "heldout") -> Cases:
        """`count` held-out single-object scenes drawn from full captions, and read."""
        drawn = prompts(count, seed=seed, split=split, full=True, pairs=0.0)
        seeds = [seed * 1_000_003 + i for i in range(count)]
        images = self.draw([p.text for p in drawn], seeds)
        return Cases(tuple(drawn), tuple(seeds), tuple(images), tuple(readings(self.detector, images)))


def readings(detector: Detector, images: Sequence[Picture]) -> list[dict[str, str]]:
    """What the detector reads of each image: every factor, those of an object taken from slot 0."""
    return [factors_of(reading) for reading in detector.read(images)]


def factors_of(reading: Reading) -> dict[str, str]:
    """Every factor of a reading, those of an object taken from slot 0."""
    first = {name: reading["slots"][0][name] for name in OBJECT_FACTORS}
    relation, background, light = reading["relation"], reading["background"], reading["light"]
    return {**first, "relation": relation, "background": background, "light": light}


@dataclass(frozen=True, eq=False)
class Outcome:
    """Per case: did the edit succeed, which share of the other factors did it change, is the picture
    spoilt?"""

    success: np.ndarray
    """bool (cases,)"""
    collateral: np.ndarray
    """float (cases,)"""
    artifacts: np.ndarray
    """bool (cases,)"""
    images: tuple[Image.Image, ...]


def measure(
    subject: ModelUnderTest,
    cases: Cases,
    recipe: Callable[[Scene], Attachable],
    value: Value,
    gone: bool = False,
) -> Outcome:
    """Generate the cases with `recipe`'s edits, under guards or not. Success: the value is there (with
    `gone`: no longer is)."""
    if not len(cases):
        raise UnboxError(f"no image to try '{value[1]}' on: every case already counts as the outcome")
    edits = [recipe(scene) for scene in cases.scenes]
    images = subject.draw([prompt.text for prompt in cases.prompts], cases.seeds, edits)
    after = readings(subject.detector, images)
    factor, wanted = value
    others = [name for name in FACTORS if name != factor]
    success = np.array([(r[factor] == wanted) != gone for r in after])
    changed = [np.mean([b[n] != a[n] for n in others]) for b, a in zip(cases.readings, after, strict=True)]
    return Outcome(success, np.array(changed), subject.artifact_rule.artifacts(images), tuple(images))
