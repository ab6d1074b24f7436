"""NovelAI V3 (2409.15997): v-prediction under zero terminal SNR with Min-SNR weights, fine-tuned from eps.

w = max(min(SNR, gamma) / (SNR + 1), floor). Under the paper's floor of 0 pure noise has no weight.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from unbox.models.systems import System
from unbox.recipes.systems.method_settings import NovelaiSettings
from unbox.recipes.systems.shared_unet import TextCondition, bound
from unbox.recipes.systems.workbench import Method, MethodBatch, MethodStage, Workbench
from unbox.training.loop import Step, Turn
from unbox.training.noise import Noise, zero_terminal_snr
from unbox.training.objectives.conversion import conversion_loss
from unbox.training.objectives.diffusion import diffusion_loss


def stages(bench: Workbench[NovelaiSettings]) -> Iterator[MethodStage]:
    """One: the diffusion loss on the new schedule, after the steps in which the former output is learned."""
    settings, before = bench.settings, bench.noise
    teacher = bench.networks.teacher() if settings.conversion_steps else None
    student = bench.role(bench.student)
    noise = Noise(
        zero_terminal_snr(before.abar), "v_prediction", "min-snr",
        settings.snr_gamma, settings.snr_floor, settings.noise_offset,
    )  # fmt: skip

    def loss(step: Step) -> Tensor:
        batch = bench.batch(step)
        x0, count = batch.x0, len(batch.x0)
        eps, t = noise.draw(x0, step.generator), bench.any_times(count, step.generator)
        given = _dropped(bench, batch, torch.rand(count, generator=step.generator, device=x0.device))
        predict = bound(student.model, given)
        if teacher is not None and step.number < settings.conversion_steps:
            x_t = noise.noised(x0, eps, t)
            return conversion_loss(predict, noise, bound(teacher, given), before, x_t, t)
        return diffusion_loss(predict, noise, x0, eps, t)

    yield MethodStage("novelai", {"student": student}, [Turn("student", loss)])


def _dropped(bench: Workbench[NovelaiSettings], batch: MethodBatch, chance: Tensor) -> TextCondition:
    """Without the captions whose chance fell under the share that is left out."""
    kept, given = chance >= bench.settings.caption_dropout, batch.given
    nothing = bench.unconditional(given)
    context = torch.where(kept[:, None, None], given.context, nothing.context)
    return TextCondition(context, torch.where(kept[:, None], given.pooled, nothing.pooled), given.sizes)


def row(before: System, settings: NovelaiSettings) -> System:
    """Sampled as NovelAI V3 is."""
    return replace(
        before,
        title=f"{before.title}, v-prediction under zero terminal SNR",
        scheduler="NativeEulerScheduler",
        scheduler_config={"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        prediction="v_prediction",
        steps=28,
        step_counts=None,
        timesteps=None,
    )


NOVELAI = Method("novelai", NovelaiSettings, stages, row)
