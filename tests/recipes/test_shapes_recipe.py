"""The recipe of the Shapes models at toy length: every stage runs, resumes exactly, and exports."""

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file
from torch import nn

from unbox.recipes.shapes.recipe import STAGES, small
from unbox.recipes.shapes.train_text_encoders import make_tokenizer
from unbox.recipes.shapes.train_unet import Diffusion, draw_times
from unbox.recipes.shapes.weights_card import draw
from unbox.recipes.training_loop import Optimizer, StagePlan, rate_at, train
from unbox.shapes import prompts
from unbox.stopping import Stopped, stopping


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(16, 1))

    def loss(self, step, rng, progress):
        x = torch.from_numpy(rng.normal(size=(8, 2, 4, 4))).float()
        return (self.net(x)[:, 0] - x.mean((1, 2, 3))).square().mean() + 0 * torch.randn(())


def _model():
    torch.manual_seed(0)
    return Regression()


def test_a_stopped_run_resumes_to_the_same_weights(tmp_path):
    plan = StagePlan(steps=12, rate=1e-2, warmup=2)
    whole = _model()
    train("stage", whole, whole.loss, plan, tmp_path / "whole")

    parts, stopped = _model(), 7

    def failing(step, rng, progress):
        if step == stopped:
            raise KeyboardInterrupt
        return parts.loss(step, rng, progress)

    with pytest.raises(KeyboardInterrupt):
        train("stage", parts, failing, plan, tmp_path / "parts", save_every=0)
    resumed = _model()
    train("stage", resumed, resumed.loss, plan, tmp_path / "parts")
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_a_signal_stops_after_the_step_and_loses_none(tmp_path):
    plan = StagePlan(steps=12, rate=1e-2, warmup=2)
    whole = _model()
    train("stage", whole, whole.loss, plan, tmp_path / "whole")

    def run(signalled=None):
        parts, steps = _model(), []

        def loss(step, rng, progress):
            steps.append(step)
            if step == signalled:
                signal.raise_signal(signal.SIGTERM)
            return parts.loss(step, rng, progress)

        try:
            with stopping():
                train("stage", parts, loss, plan, tmp_path / "parts")
        except Stopped:
            return steps, None
        return steps, parts

    assert run(7) == (list(range(8)), None)
    steps, resumed = run()
    assert steps == list(range(8, 12))
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_a_finished_stage_is_loaded_not_trained(tmp_path):
    plan = StagePlan(steps=3, rate=1e-2, warmup=1)
    first = _model()
    train("stage", first, first.loss, plan, tmp_path)

    def never(*_):
        raise AssertionError("trained again")

    again = train("stage", Regression(), never, plan, tmp_path)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in first.state_dict().items())


def test_the_optimizer_moves_convolutions_through_their_flat_views():
    model = _model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = Optimizer(model, 1e-2)
    model.loss(0, np.random.default_rng(0), 0.0).backward()
    optimizer.step(1.0)
    assert all(not torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_the_rate_warms_up_stays_and_falls_to_nothing():
    plan = StagePlan(steps=100, rate=1.0, warmup=10, decay_from=0.5)
    assert rate_at(plan, 0.0, 0) == pytest.approx(0.1)
    assert rate_at(plan, 0.4, 40) == pytest.approx(1.0)
    assert rate_at(plan, 1.0, 100) == pytest.approx(0.0)


def test_velocity_gives_back_the_clean_latents():
    diffusion = Diffusion()
    x0, eps = torch.randn(2, 5, 4, 8, 8)
    t = torch.tensor([0, 249, 499, 749, 999])
    x_t, v = diffusion.noised(x0, eps, t), diffusion.velocity(x0, eps, t)
    assert torch.allclose(diffusion.clean(x_t, v, t), x0, atol=1e-5)


def test_timesteps_stay_in_range_and_start_with_pure_noise():
    rng = np.random.default_rng(0)
    early, late = (draw_times(rng, 4000, progress) for progress in (0.0, 0.5))
    assert int(late.min()) >= 0
    assert int(late.max()) <= 999
    assert (early == 999).float().mean() > (late == 999).float().mean() > 0.2


def test_the_tokenizer_knows_the_world_and_survives_anything_else():
    tokenizer = make_tokenizer()
    lengths = [len(tokenizer(p.text).input_ids) for p in prompts(300, seed=5)]
    assert max(lengths) <= tokenizer.model_max_length
    assert tokenizer.decode(tokenizer("a zebra! 7 é").input_ids[1:-1]).replace(" ", "") == "azebra!7é"


@pytest.mark.slow
def test_every_stage_runs_and_what_it_exports_draws(tmp_path):
    recipe = small(tmp_path)
    for stage in STAGES.values():
        stage(recipe)
    folder = recipe.export(recipe.turbo, True, tmp_path / "shapes-turbo")
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32)
    (image,) = draw(pipeline, ["a red circle"], [0], steps=2)
    assert image.size == (64, 64)
    again = replace(recipe)  # a new process would start with nothing cached
    assert again.tokenizer.get_vocab() == recipe.tokenizer.get_vocab()
    assert torch.equal(next(again.turbo.parameters()), next(recipe.turbo.parameters()))
    (tmp_path / "latents.json").unlink()  # stopped after the training of the VAE, before what follows it
    assert replace(recipe).vae.config["latents_std"] == recipe.vae.config["latents_std"]
    weights = load_file(recipe.export_detector(tmp_path / "detector.safetensors"))
    assert all(value.dtype == torch.float16 for value in weights.values())
