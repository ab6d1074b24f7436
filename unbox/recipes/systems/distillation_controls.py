"""The controls beside Lightning: LADD (2403.12015) and DMD2 (2405.14867), one stage each."""

import random

import torch
import torch.nn.functional as F
from torch import Tensor

from unbox.recipes.systems.method_settings import LightningSettings
from unbox.recipes.systems.shared_unet import TextCondition, bound, guided
from unbox.recipes.systems.unet_critic import UNetCritic
from unbox.recipes.systems.workbench import MethodBatch, MethodStage, Workbench
from unbox.training.loop import Step, Turn
from unbox.training.objectives.adversarial import (
    ladd_critic_loss,
    ladd_noised,
    softplus_critic_loss,
    softplus_generator_loss,
)
from unbox.training.objectives.diffusion import diffusion_loss
from unbox.training.objectives.distribution_matching import distribution_matching_loss
from unbox.training.objectives.progressive import ddim_moves, started, trailing_timesteps

#: DMD2's weights of the adversarial term for its generator and for its score, by its code for SDXL.
GENERATOR_WEIGHT, SCORE_WEIGHT = 5e-3, 1e-2
#: Timesteps that DMD2 matches scores at.
MATCHED = (20, 980)


def ladd(bench: Workbench[LightningSettings]) -> MethodStage:
    """A critic of noised x0, misaligned captions among its fakes; smooth L1 to the teacher's sample from the
    same x_t, of as many moves as are left of `teacher_steps`."""
    settings, noise = bench.settings, bench.noise
    teacher = bench.networks.teacher()
    student = bench.role(bench.student)
    judge = UNetCritic(bench.networks.learner("critic", encoder=True), bench.side, False)
    critic = bench.role(judge, settings.critic_rate)
    grid = trailing_timesteps(settings.teacher_steps).to(bench.device)
    steps = settings.student_steps[0]
    many = settings.teacher_steps // steps

    def made(step: Step) -> tuple[MethodBatch, Tensor, Tensor, Tensor]:
        """A batch, x_t, the path of timesteps (moves + 1, B) from it to x0, and the student's x0."""
        batch = bench.batch(step)
        first = many * one_of(steps, step)
        path = grid[first:].unsqueeze(1).expand(-1, len(batch.x0))
        x_t = started(noise, batch.x0, noise.draw(batch.x0, step.generator), path[0])
        return batch, x_t, path, noise.clean(x_t, student.model(x_t, path[0], batch.given), path[0])

    def sampled(batch: MethodBatch, x_t: Tensor, path: Tensor) -> Tensor:
        predict = guided(teacher, batch.given, bench.unconditional(batch.given), settings.guidance)
        return ddim_moves(predict, noise, x_t, path)

    def critic_loss(step: Step) -> Tensor:
        with torch.no_grad():
            batch, x_t, path, fake = made(step)
            real = sampled(batch, x_t, path)
        given, wrong = batch.given, batch.given.misaligned()
        noised = [ladd_noised(noise, x0, step.generator) for x0 in (real, fake, real)]
        x, t = (torch.cat(parts) for parts in zip(*noised, strict=True))
        real_logits, fake_logits, misaligned = critic.model(
            x, t, given.together(given).together(wrong)
        ).chunk(3)
        if len(real) == 1:  # its own caption is the only one
            return softplus_critic_loss(real_logits, fake_logits)
        return ladd_critic_loss(real_logits, fake_logits, misaligned)

    def student_loss(step: Step) -> Tensor:
        batch, x_t, path, fake = made(step)
        with torch.no_grad():
            target = sampled(batch, x_t, path)
        x, t = ladd_noised(noise, fake, step.generator)
        return softplus_generator_loss(judge(x, t, batch.given)) + F.smooth_l1_loss(fake, target)

    turns = [Turn("critic", critic_loss), Turn("student", student_loss)]
    return MethodStage("ladd", {"critic": critic, "student": student}, turns)


def dmd2(bench: Workbench[LightningSettings]) -> MethodStage:
    """Distribution matching in the student's own steps, and a critic on the score's features; the score has
    `score_turns` turns for one of the student."""
    settings, noise = bench.settings, bench.noise
    teacher = bench.networks.teacher()
    student = bench.role(bench.student)
    network = bench.networks.learner("score")
    judge = UNetCritic(network, bench.side, False)
    score = bench.role(judge, settings.critic_rate)
    grid = trailing_timesteps(settings.student_steps[0])[:-1].to(bench.device)

    def made(step: Step) -> tuple[MethodBatch, Tensor]:
        """A batch, and samples in the student's own steps from noise; gradients through the last alone."""
        batch = bench.batch(step)
        last = one_of(len(grid), step)
        x_t = noise.draw(batch.x0, step.generator)
        for place in range(last + 1):
            t = grid[place].expand(len(x_t))
            with torch.set_grad_enabled(torch.is_grad_enabled() and place == last):
                call = student.model if place == last else student.module
                x0 = noise.clean(x_t, call(x_t, t, batch.given), t)
            if place < last:
                then = grid[place + 1].expand(len(x_t))
                x_t = noise.noised(x0, noise.draw(x0, step.generator), then)
        return batch, x0

    def noised(x0: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        t = bench.any_times(len(x0), step.generator, *MATCHED)
        return noise.noised(x0, noise.draw(x0, step.generator), t), t

    def score_loss(step: Step) -> Tensor:
        with torch.no_grad():
            batch, x0 = made(step)
        eps, t = noise.draw(x0, step.generator), bench.any_times(len(x0), step.generator)
        loss = diffusion_loss(bound(network, batch.given), noise, x0, eps, t)
        pairs = [noised(each, step) for each in (batch.x0, x0)]
        x, t = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        logits = score.model(x, t, _twice(batch.given))
        return loss + SCORE_WEIGHT * softplus_critic_loss(*logits.chunk(2))

    def student_loss(step: Step) -> Tensor:
        batch, x0 = made(step)
        with torch.no_grad():
            x_t, t = noised(x0, step)
            real = guided(teacher, batch.given, bench.unconditional(batch.given), settings.guidance)(x_t, t)
            fake = network(x_t, t, batch.given)
        matched = distribution_matching_loss(x0, noise.clean(x_t, fake, t), noise.clean(x_t, real, t))
        x, t = noised(x0, step)
        return matched + GENERATOR_WEIGHT * softplus_generator_loss(judge(x, t, batch.given))

    turns = [Turn("score", score_loss), Turn("student", student_loss, settings.score_turns)]
    return MethodStage("dmd2", {"score": score, "student": student}, turns)


def one_of(count: int, step: Step) -> int:
    """A number under `count` that a whole batch has, by the step's seed: no device is waited for."""
    return random.Random(step.generator.initial_seed()).randrange(count)  # not for secrets


def _twice(given: TextCondition) -> TextCondition:
    return given.together(given)
