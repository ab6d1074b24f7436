import pytest
import torch

from tests.activation_store import fakes
from tests.edits.dictionaries import random_sae
from unbox.capture import collect
from unbox.capture.keeper import thumbnail
from unbox.errors import UnboxError
from unbox.experiments.faithfulness import faithfulness, faithfulness_on, faithfulness_table
from unbox.sae import SAE


def test_a_perfect_sae_changes_nothing_and_ablation_does(tiny):
    width = tiny.block("up.1.1").proj_out.out_features
    eye = torch.cat([torch.eye(width), -torch.eye(width)])
    perfect = SAE(
        eye, eye, torch.zeros(width), torch.zeros(2 * width), k=width, block="up.1.1", name="perfect"
    )
    empty = SAE(
        eye, eye, torch.zeros(width), torch.full((2 * width,), -1e6), k=1, block="up.1.1", name="empty"
    )
    found = faithfulness(tiny, {"perfect": perfect, "empty": empty}, ["a red dog", "a cat"], [0, 1], steps=2)
    assert found["perfect"]["rmse"].high < 2e-3
    assert found["empty"]["rmse"] == found["empty"]["ablated_rmse"]
    assert found["empty"]["rmse"].mean > 10 * found["perfect"]["rmse"].mean
    table = faithfulness_table(found)
    assert table.count("\n") == 4
    assert "| perfect |" in table


class Spy:
    """The model, telling how it was asked."""

    def __init__(self, model):
        self.model, self.calls = model, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def generate(self, prompts, edits=None, **options):
        images = self.model.generate(prompts, edits=edits, **options)
        self.calls.append((prompts, edits, options, images))
        return images


def test_images_of_a_store_are_drawn_as_it_was_recorded(tiny, tmp_path):
    """Not at the model's own size, steps and guidance, and replaced where updates were kept."""
    store = collect(
        tiny,
        ["a (red:3) (dog:0.2)", "a cat"],
        tmp_path / "store",
        prompt_weights=True,
        blocks=("mid.0",),
        steps=4,
        guidance=2.0,
        height=32,
        width=48,
        negative_prompt="a car",
        keep_steps=(0, 2, 3),
        branches=("cond",),
        thumbnail=48,
        progress=False,
    )
    spy, width = Spy(tiny), tiny.block("mid.0").in_channels
    sae = random_sae("mid.0", width=width, latents=2 * width)
    faithfulness_on(spy, {"mid.0": sae}, store, 2)
    (prompts, none, options, plain), *edited = spy.calls
    assert (prompts, none) == (["a (red:3) (dog:0.2)", "a cat"], None)
    assert options["seeds"] == [sample.seed for sample in store.samples]
    for i, image in enumerate(plain):
        assert image.size == (48, 32)
        assert thumbnail(image, 48) == store.thumbnail(i)
    assert len(edited) == 2
    for _, edits, _, _ in edited:
        assert [edit.steps for edit in edits] == [(0, 1), (2, 4)]
        assert {edit.branch for edit in edits} == {"cond"}
    with pytest.raises(UnboxError, match=r"--images 3: .* has 2"):
        faithfulness_on(spy, {"mid.0": sae}, store, 3)
    with pytest.raises(UnboxError, match="does not say at which steps, guidance, height, width"):
        faithfulness_on(spy, {"mid.0": sae}, fakes.make(tmp_path / "fake", 4), 3)
