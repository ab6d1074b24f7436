"""The few-step finish: its loss against plain numpy, its captions by counting, and a finished model whose
finish goes on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionXLPipeline

from unbox.cli.main import main
from unbox.errors import UnboxError
from unbox.models import load
from unbox.recipes.shapes.finish import draw_captions, finish_rate, pure_noise_loss
from unbox.recipes.shapes.finished_model import take_apart
from unbox.recipes.shapes.growth import BLOCKS
from unbox.recipes.shapes.recipe_settings import RecipeSizes, StageMinutes
from unbox.recipes.shapes.whole_recipe import ShapesRecipe
from unbox.site import DEFAULT_BLOCKS


def test_an_open_size_is_squared_and_everything_else_absolute():
    rng = np.random.default_rng(0)
    x0, truth = rng.normal(size=(2, 3, 4, 5, 5))
    places, open_size = rng.uniform(1, 5, (3, 1, 5, 5)), np.array([True, False, True])
    error = np.stack(
        [(a - b) ** 2 if o else abs(a - b) for a, b, o in zip(x0, truth, open_size, strict=True)]
    )
    expected = sum(float((places[i] * error[i]).sum()) for i in range(3)) / 4 / 75 / places.mean()
    found = pure_noise_loss(*(torch.from_numpy(each) for each in (x0, truth, open_size, places)))
    assert float(found) == pytest.approx(expected)


def test_the_best_answer_between_two_sizes_is_their_mean_and_not_the_likelier():
    """Of a place that the object covers in 60 of 100 pictures: what the loss is least at."""
    covered = torch.tensor([1.0] * 60 + [0.0] * 40).view(-1, 1, 1, 1)
    places, answers = torch.ones(100, 1, 1, 1), torch.linspace(0, 1, 101)
    for open_size, best in ((True, 0.6), (False, 1.0)):
        losses = [
            pure_noise_loss(
                torch.full_like(covered, float(x)), covered, torch.full((100,), open_size), places
            )
            for x in answers
        ]
        assert float(answers[int(torch.stack(losses).argmin())]) == pytest.approx(best)


@pytest.mark.parametrize(("open_captions", "share"), [(range(0, 1000, 10), 0.55), ((), 0.0)])
def test_half_of_the_captions_at_pure_noise_leave_the_size_open(open_captions, share):
    free = torch.zeros(1000, dtype=torch.bool)
    free[list(open_captions)] = True
    rows = torch.tensor(list(open_captions), dtype=torch.int64)
    index = draw_captions(rows, 1000, 2000, 4000, torch.Generator().manual_seed(0))
    assert index.shape == (4000,)
    found = free[index].float()
    assert float(found[:2000].mean()) == pytest.approx(share, abs=0.02)  # and one in ten of the others
    assert float(found[2000:].mean()) == pytest.approx(0.1 if share else 0.0, abs=0.02)
    assert len(index[1000:].unique()) > 900


def test_smaller_batches_learn_slower_by_the_square_root():
    rates = {1024: 1e-3, 256: 1e-3, 64: 5e-4, 16: 2.5e-4}
    assert {batch: finish_rate(batch) for batch in rates} == pytest.approx(rates)


@pytest.fixture(scope="module")
def turbo() -> StableDiffusionXLPipeline:
    return load("shapes-turbo", device="cpu", dtype="float32").pipeline


@pytest.mark.slow
def test_a_finished_model_taken_apart_is_the_same_model(turbo, tmp_path):
    """What the pipeline has, in the recipe's own networks; its finish of two steps moves the four blocks and
    what lies around them, none of the other seven."""
    take_apart(turbo, tmp_path)
    recipe = ShapesRecipe(
        tmp_path, Accelerator(cpu=True), "again", replace(RecipeSizes.small(), scenes=200), StageMinutes(), 2
    )
    told = dict(turbo.unet.named_parameters())
    assert all(torch.equal(p, told[name]) for name, p in recipe.base.named_parameters())
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(recipe.vae.decode(latents).sample, turbo.vae.decode(latents).sample)
    assert recipe.vae.config.latents_std == pytest.approx(turbo.vae.config.latents_std)
    ids = torch.tensor([turbo.tokenizer("a red heart", padding="max_length").input_ids])
    with torch.no_grad():
        context, pooled = recipe.text(ids)
        embeds, _, both, _ = turbo.encode_prompt("a red heart", do_classifier_free_guidance=False)
    assert torch.allclose(context, embeds, atol=1e-5)
    assert torch.allclose(pooled, both, atol=1e-5)
    finished = dict(recipe.finish.named_parameters())
    others = tuple(f"{BLOCKS[name]}." for name in BLOCKS.keys() - set(DEFAULT_BLOCKS))
    moved = {name for name, p in finished.items() if not torch.equal(p, told[name])}
    assert moved
    assert not [name for name in moved if name.startswith(others)]
    take_apart(turbo, tmp_path)  # what is there stays
    assert (tmp_path / "finish-again" / "state.json").is_file()


def test_what_is_exported_is_sampled_as_the_system_that_it_is_called_by(turbo, tmp_path):
    """Without being told: the picture of the bundled model, of as many steps, from the bundled row."""
    take_apart(turbo, tmp_path)
    recipe = ShapesRecipe(tmp_path, Accelerator(cpu=True), "again", RecipeSizes.small())
    for name in ("shapes-turbo", "shapes-base"):
        own, bundled = load(recipe.export(recipe.base, name)), load(name)
        assert (own.system.name, own.system.steps) == (name, bundled.system.steps)
        one, two = (m.generate("a large red heart in the center", seed=2, steps=2) for m in (own, bundled))
        assert np.array_equal(np.asarray(one), np.asarray(two))


def test_a_finish_that_goes_on_from_nothing_or_another_model_is_refused(turbo, tmp_path, capsys):
    line = ["recipe", "shapes", "--out", str(tmp_path / "run"), "--order", "again", "--device", "cpu"]
    assert main(line) != 0
    assert "only the finish of a finished model" in capsys.readouterr().err
    assert main([*line, "--stages", "finish"]) != 0
    assert "goes on from a finished model, which --start names" in capsys.readouterr().err
    wider = type(turbo.vae).from_config({**turbo.vae.config, "latent_channels": 8})
    other = StableDiffusionXLPipeline(**{**turbo.components, "vae": wider}, add_watermarker=False)
    with pytest.raises(UnboxError, match="the VAE of --start has other layers"):
        take_apart(other, tmp_path / "other")
    assert not (tmp_path / "other").exists()
