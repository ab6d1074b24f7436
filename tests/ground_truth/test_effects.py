"""What an edit causes, beside the same read from the pipeline's own pictures."""

import numpy as np
import pytest

from tests.ground_truth.test_artifacts import Sure
from tests.models.tiny import tiny_pipeline
from unbox.edit import Direction, Edits
from unbox.ground_truth.artifacts import SEED
from unbox.ground_truth.bench.trade_off import outcome_rates
from unbox.ground_truth.effects import ModelUnderTest, measure, readings
from unbox.models import load
from unbox.shapes import FACTORS, prompts
from unbox.shapes.detector import Detector


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    model = load(tiny_pipeline(tmp_path_factory.mktemp("tiny"), timestep_spacing="trailing"))
    return ModelUnderTest(model, Detector.load(), {"steps": 1, "guidance": 0.0, "batch_size": 8}, Sure(), 24)


def strange(image):
    """What `Sure` says: of each head its best value or the others alike."""
    sure = np.asarray(image, float).mean() / 255
    heads = (3, 6, 4, 6, 8, 2, 4, 9)
    return -sum(np.log(max(sure, (1 - sure) / (values - 1))) for values in heads)


def test_artifacts_are_what_the_second_critic_finds_stranger_than_unedited_pictures(subject):
    """The threshold is of pictures that are no cases, drawn once."""
    texts = [p.text for p in prompts(24, SEED, "heldout", True, 0.0)]
    images = subject.draw(texts, [SEED * 1_000_003 + i for i in range(24)])
    limit = np.sort([strange(image) for image in images])[int(np.ceil(0.95 * 23))]
    assert subject.artifact_rule.threshold == pytest.approx(limit, rel=1e-6)
    assert subject.artifact_rule is subject.artifact_rule

    cases = subject.cases(6, 3)
    dark = Edits.of(Direction("mid.0", [1.0] * 128).add(-30.0))
    value = ("colour", "red")
    outcome = measure(subject, cases, lambda scene: dark, value)
    edited = subject.draw([p.text for p in cases.prompts], cases.seeds, [dark] * 6)
    expected = [strange(image) > limit * (1 + 1e-9) for image in edited]
    assert outcome.artifacts.tolist() == expected
    after = readings(subject.detector, edited)
    others = [name for name in FACTORS if name != "colour"]
    kept = [[b[n] != a[n] for n in others] for b, a in zip(cases.readings, after, strict=True)]
    np.testing.assert_allclose(outcome.collateral, np.mean(kept, 1))
    assert outcome.success.tolist() == [a["colour"] == "red" for a in after]
    row = outcome_rates(outcome)
    assert row["artifacts"] == np.mean(expected)
    assert row["artifacts_low"] <= row["artifacts"] <= row["artifacts_high"]
