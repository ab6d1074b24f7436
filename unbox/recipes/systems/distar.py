"""Diff-Instruct* (2410.20898): a one-step generator, near the teacher's scores, towards a reward.

x0 = (z - s eps(z)) / a from unit noise z, asked at one timestep. A score of what is generated learns beside
it; the distance's gradient flows through x_t into both scores. After an optional start that regresses the
teacher's samples.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from unbox.models.systems import System
from unbox.recipes.systems.method_settings import DistarSettings
from unbox.recipes.systems.picture_networks import reward_of
from unbox.recipes.systems.shared_unet import bound, guided
from unbox.recipes.systems.workbench import Method, MethodBatch, MethodStage, Workbench
from unbox.training.loop import Step, Turn
from unbox.training.objectives.diffusion import diffusion_loss, regression_loss
from unbox.training.objectives.distribution_matching import distribution_matching_loss
from unbox.training.objectives.progressive import ddim_moves, trailing_timesteps
from unbox.training.objectives.score_distance import (
    implicit_guidance_loss,
    score_distance_loss,
    sid_loss,
)

#: Timesteps that scores are compared at.
COMPARED = (20, 980)


def distance_of(settings: DistarSettings) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The loss by x0 and by the auxiliary score's and the reference's predictions of it."""
    if settings.distance == "kl":
        return distribution_matching_loss
    if settings.distance == "sid":
        return sid_loss
    return lambda x0, psi, ref: score_distance_loss(x0, psi, ref, x0.new_ones(len(x0)), settings.huber_c)


def stages(bench: Workbench[DistarSettings]) -> Iterator[MethodStage]:
    """One, whose first steps are the regression's."""
    settings, noise = bench.settings, bench.noise
    teacher, student = bench.networks.teacher(), bench.role(bench.student)
    network = bench.networks.learner("score")
    score = bench.role(network, settings.score_rate)
    reward = None if settings.reward is None else reward_of(bench, settings.reward)
    grid = trailing_timesteps(settings.teacher_steps).to(bench.device)

    def asked(batch: MethodBatch) -> Tensor:
        return torch.full((len(batch.x0),), settings.timestep, device=bench.device)

    def made(step: Step) -> tuple[MethodBatch, Tensor]:
        batch = bench.batch(step)
        z, t = noise.draw(batch.x0, step.generator), asked(batch)
        return batch, noise.clean(z, student.model(z, t, batch.given), t)

    def score_loss(step: Step) -> Tensor:
        with torch.no_grad():
            batch, x0 = made(step)
        eps, t = noise.draw(x0, step.generator), bench.any_times(len(x0), step.generator)
        return diffusion_loss(bound(score.model, batch.given), noise, x0, eps, t)

    def regression(step: Step) -> Tensor:
        batch = bench.batch(step)
        z, t = noise.draw(batch.x0, step.generator), asked(batch)
        with torch.no_grad():
            predict = guided(teacher, batch.given, bench.unconditional(batch.given), settings.guidance)
            x0 = ddim_moves(predict, noise, z, grid.unsqueeze(1).expand(-1, len(z)))
        return regression_loss(bound(student.model, batch.given), noise, z, x0, t)

    def distance(batch: MethodBatch, x0: Tensor, step: Step) -> Tensor:
        """The distance, and guidance if it stands outside."""
        t = bench.any_times(len(x0), step.generator, *COMPARED)
        x_t = noise.noised(x0, noise.draw(x0, step.generator), t)  # not detached
        inside = settings.guidance if settings.guidance_place == "in" else 1.0
        nothing = bench.unconditional(batch.given)
        ref = noise.clean(x_t, guided(teacher, batch.given, nothing, inside)(x_t, t), t)
        psi = noise.clean(x_t, bound(network, batch.given)(x_t, t), t)
        loss = distance_of(settings)(x0, psi, ref)
        if settings.guidance_place == "out":
            with torch.no_grad():
                without = noise.clean(x_t, bound(teacher, nothing)(x_t, t), t)
            loss = loss + settings.guidance * implicit_guidance_loss(x0, ref, without)
        return loss

    def student_loss(step: Step) -> Tensor:
        if step.number < settings.regression_steps:
            return regression(step)
        batch, x0 = made(step)
        loss = distance(batch, x0, step)
        if reward is not None and settings.reward_weight:
            loss = loss - settings.reward_weight * reward(bench.decode(x0), batch.rows).mean()
        return loss

    turns = [Turn("score", score_loss), Turn("student", student_loss, settings.score_turns)]
    yield MethodStage("distar", {"score": score, "student": student}, turns)


def row(before: System, settings: DistarSettings) -> System:
    """Sampled as Diff-Instruct* is: one step, by LCM's rule."""
    return replace(
        before,
        title=f"{before.title}, Diff-Instruct* in one step",
        scheduler="LCMScheduler",
        scheduler_config={"original_inference_steps": 1000},
        steps=1,
        step_counts=(1,),
        timesteps={1: (settings.timestep,)},
        guidance=0.0,
        distilled=True,
    )


DISTAR = Method("distar", DistarSettings, stages, row)
