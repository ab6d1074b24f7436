"""Artifacts: pictures that a critic cannot place in the world that the model draws.

Edits push activations where the model never was, and many pictures show it (PER, arXiv 2606.31699: 61 % of
steered ones). The critic is not the detector that judges whether an edit succeeded: an edit that fools a
detector would fool its verdict on artifacts as well. Its threshold is fixed beforehand, at 5 % of unedited
pictures of the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from unbox.errors import UnboxError
from unbox.experiments.picture_density import SHARE, artifact_threshold
from unbox.shapes import OBJECT_FACTORS
from unbox.shapes.detector import Picture
from unbox.shapes.factors import SCENE_FACTORS

#: The critic that tells artifacts, of `unbox.shapes.factor_critics`.
CRITIC = "patches"

#: Unedited pictures that the threshold is set by, at most and at least, and the seed of their captions, of
#: which no case is.
MOST, LEAST, SEED = 200, 20, 501

#: What a critic is read by: every factor of the scene, and of the first object.
READ = (*SCENE_FACTORS, *(f"0.{name}" for name in OBJECT_FACTORS))


def unedited_count(captions: int) -> int:
    """How many unedited pictures set the threshold in a run over so many captions."""
    return min(max(captions // 4, LEAST), MOST)


class FactorCritic(Protocol):
    """A network that tells the factors of pictures: `unbox.shapes.detector.Detector`, or a second one."""

    def probabilities(self, images: Sequence[Picture], /) -> Mapping[str, np.ndarray]:
        """Per head (images, values)."""
        ...


def strangeness(critic: FactorCritic, images: Sequence[Picture]) -> np.ndarray:
    """(images,) how little a critic can place each picture: -log of the probability that it gives to its own
    most likely factors together; 0 for a picture that it is sure of."""
    if not len(images):
        return np.zeros(0)
    told = critic.probabilities(images)
    return -np.sum([np.log(np.maximum(told[head].max(-1), 1e-12)) for head in READ], 0)


@dataclass(frozen=True, eq=False)
class ArtifactRule:
    """Which pictures count as artifacts."""

    critic: FactorCritic
    threshold: float
    """Strangeness above which a picture is one."""

    @classmethod
    def of(cls, critic: FactorCritic, unedited: Sequence[Picture], share: float = SHARE) -> "ArtifactRule":
        """The rule by which `share` of unedited pictures are artifacts. Raises UnboxError without any."""
        if not len(unedited):
            raise UnboxError("there are no unedited pictures to set the threshold of artifacts by")
        return cls(critic, artifact_threshold(strangeness(critic, unedited), share))

    def artifacts(self, images: Sequence[Picture]) -> np.ndarray:
        """(images,) bool."""
        return strangeness(self.critic, images) > self.threshold
