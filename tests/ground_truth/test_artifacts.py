"""Artifacts: what a critic cannot place, by a threshold that unedited pictures set."""

import numpy as np
import pytest
from PIL import Image

from unbox.errors import UnboxError
from unbox.ground_truth.artifacts import READ, ArtifactRule, strangeness
from unbox.shapes.detector import HEADS, Detector


class Sure:
    """A critic as sure of its most likely values as a picture is bright, 1/255 at the darkest."""

    def probabilities(self, images, /):
        told = {}
        for head, values in HEADS.items():
            best = np.array([max(float(np.asarray(i).mean()), 1) / 255 for i in images])
            rest = (1 - best) / (len(values) - 1)
            told[head] = np.concatenate([np.repeat(rest[:, None], len(values) - 1, 1), best[:, None]], 1)
        return told


def grey(level):
    return Image.fromarray(np.full((8, 8, 3), level, np.uint8))


def test_strangeness_is_the_improbability_of_all_that_is_read_together():
    found = strangeness(Sure(), [grey(255), grey(200)])
    assert found == pytest.approx([0, -len(READ) * np.log(200 / 255)])
    assert len(READ) == 8
    assert len(strangeness(Sure(), [])) == 0


def test_the_threshold_is_set_by_unedited_pictures_alone():
    unedited = [grey(150 + i) for i in range(100)]
    rule = ArtifactRule.of(Sure(), unedited)
    assert rule.artifacts(unedited).sum() == 4  # 5 % at most
    assert rule.artifacts([grey(149), grey(160), grey(240)]).tolist() == [True, False, False]
    assert ArtifactRule.of(Sure(), unedited, share=0.2).artifacts(unedited).sum() == 19
    with pytest.raises(UnboxError, match="no unedited pictures"):
        ArtifactRule.of(Sure(), [])


def test_noise_is_stranger_than_pictures_of_the_world():
    from unbox.shapes import Scene, prompts, render

    scenes = [Scene.from_json(p.meta["scene"]) for p in prompts(40, 3, "heldout", True, 0.0)]
    rule = ArtifactRule.of(Detector.load(), [Image.fromarray(render(scene)) for scene in scenes])
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
    assert rule.artifacts([Image.fromarray(each) for each in noise]).mean() > 0.5
