"""What pictures lose without a block, against the pipeline with that block's update taken away by a hook."""

import numpy as np
import pytest

from tests.models.tiny import tiny_pipeline
from unbox.ground_truth.demo.block_ablation import ablate_blocks
from unbox.ground_truth.effects import ModelUnderTest
from unbox.models import load
from unbox.shapes import FACTORS
from unbox.shapes.detector import Detector


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    model = load(tiny_pipeline(tmp_path_factory.mktemp("tiny"), timestep_spacing="trailing"))
    return ModelUnderTest(model, Detector.load(), {"steps": 1, "guidance": 0.0})


def test_the_change_is_that_of_pictures_drawn_without_the_block(subject):
    cases = subject.cases(3)
    (row,) = ablate_blocks(subject, cases, ("up.0.1",), shown=2)
    module = subject.model.unet.up_blocks[0].attentions[1]
    hook = module.register_forward_hook(lambda _, given, out: (given[0], *out[1:]))
    try:
        without = subject.draw([prompt.text for prompt in cases.prompts], cases.seeds)
    finally:
        hook.remove()
    before, after = (np.stack(images).astype(float) / 255 for images in (cases.images, without))
    assert row["change"] == pytest.approx(np.sqrt(((after - before) ** 2).mean()), rel=1e-3)
    assert row["change"] > 0
    found = subject.detector.read(without)
    changed = np.mean([f["light"] != b["light"] for f, b in zip(found, cases.readings, strict=True)])
    assert row["factors"]["light"] == changed
    assert set(row["factors"]) == set(FACTORS)
    assert len(row["pictures"]) == 2
