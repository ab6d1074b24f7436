"""ADD, as SDXL Turbo was made (2311.17042): a student in few steps, its teacher, and a critic on pixels.

The teacher's x0 weighs sqrt(abar) of its timestep, drawn anew from all. The critic: heads with the caption
over a frozen projector, hinge loss, R1 at real features.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from unbox.models.systems import System
from unbox.recipes.systems.method_settings import TurboSettings
from unbox.recipes.systems.picture_networks import projector
from unbox.recipes.systems.shared_unet import bound
from unbox.recipes.systems.unet_critic import ProjectedCritic
from unbox.recipes.systems.workbench import Method, MethodBatch, MethodStage, Workbench
from unbox.training.loop import Step, Turn
from unbox.training.objectives.adversarial import (
    add_distillation_loss,
    hinge_critic_loss,
    hinge_generator_loss,
    r1_penalty,
)
from unbox.training.objectives.progressive import started, trailing_timesteps


def stages(bench: Workbench[TurboSettings]) -> Iterator[MethodStage]:
    """One: critic and student in turns."""
    settings, noise = bench.settings, bench.noise
    teacher, features = bench.networks.teacher(), projector(bench, settings.projector)
    student = bench.role(bench.student)
    heads = ProjectedCritic(features.channels, bench.nothing.pooled.shape[-1])
    critic = bench.role(heads, settings.critic_rate)
    grid = trailing_timesteps(settings.steps)[:-1]

    def made(step: Step) -> tuple[MethodBatch, Tensor]:
        """A batch, and the student's x0 for each example at one of its own timesteps."""
        batch = bench.batch(step)
        t = bench.times(grid, len(batch.x0), step.generator)
        x_t = started(noise, batch.x0, noise.draw(batch.x0, step.generator), t)
        return batch, noise.clean(x_t, student.model(x_t, t, batch.given), t)

    def critic_loss(step: Step) -> Tensor:
        with torch.no_grad():
            batch, x0 = made(step)
            real, fake = features(bench.decode(batch.x0)), features(bench.decode(x0))
        pooled = batch.given.pooled
        both = [torch.cat(pair) for pair in zip(real, fake, strict=True)]
        loss = hinge_critic_loss(*critic.model(both, torch.cat([pooled, pooled])).chunk(2))
        if not settings.r1:
            return loss

        def judged_at(place: int, maps: Tensor) -> Tensor:
            return heads([*real[:place], maps, *real[place + 1 :]], pooled)

        each = [r1_penalty(partial(judged_at, place), real[place]) for place in range(len(real))]
        return loss + settings.r1 * torch.stack(each).sum()

    def student_loss(step: Step) -> Tensor:
        batch, x0 = made(step)
        judged = hinge_generator_loss(heads(features(bench.decode(x0)), batch.given.pooled))
        t = bench.any_times(len(x0), step.generator)
        with torch.no_grad():
            x_t = noise.noised(x0, noise.draw(x0, step.generator), t)
            believed = noise.clean(x_t, bound(teacher, batch.given)(x_t, t), t)
        return judged + settings.distillation * add_distillation_loss(x0, believed, noise.abar[t].sqrt())

    turns = [Turn("critic", critic_loss), Turn("student", student_loss)]
    yield MethodStage("turbo", {"critic": critic, "student": student}, turns)


def row(before: System, settings: TurboSettings) -> System:
    """Sampled as SDXL Turbo is."""
    return replace(
        before,
        title=f"{before.title}, ADD in {settings.steps} steps",
        scheduler="EulerAncestralDiscreteScheduler",
        scheduler_config={**before.scheduler_config, "timestep_spacing": "trailing"},
        steps=settings.steps,
        step_counts=tuple(range(1, settings.steps + 1)),
        timesteps=None,
        guidance=0.0,
        distilled=True,
    )


TURBO = Method("turbo", TurboSettings, stages, row)
