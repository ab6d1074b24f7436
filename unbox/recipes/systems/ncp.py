"""Preference in noise-conditioned perception (NCP, 2406.17636): DPO, CPO and SFT, and plain Diffusion-DPO.

Both images of a pair have one caption, timestep and noise. Errors are of one posterior step, in the features
that the frozen UNet's encoder has of it; or of the output itself.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from unbox.errors import UnboxError
from unbox.models.systems import System
from unbox.recipes.systems.method_settings import NcpSettings
from unbox.recipes.systems.shared_unet import TextCondition
from unbox.recipes.systems.workbench import Method, MethodStage, Workbench
from unbox.training.loop import Step, Turn
from unbox.training.objectives.preference import cpo_loss, dpo_loss, perceived_errors, sample_errors


def stages(bench: Workbench[NcpSettings]) -> Iterator[MethodStage]:
    """One."""
    settings, noise = bench.settings, bench.noise
    reference, student = bench.networks.teacher(), bench.role(bench.student)

    def errors(
        output: Tensor, x_t: Tensor, x0: Tensor, eps: Tensor, t: Tensor, given: TextCondition, n: Tensor
    ) -> Tensor:
        """(B,) of an output at x_t."""
        if settings.space == "output":
            return sample_errors(output, noise.target(x0, eps, t))

        def perceive(x: Tensor, when: Tensor) -> Tensor:
            return reference.encode(x, when, given, mid=False)

        return perceived_errors(perceive, noise, x_t, noise.clean(x_t, output, t), x0, t, n)

    def loss(step: Step) -> Tensor:
        batch, count = bench.batch(step), 1
        x0, given = batch.x0, batch.given
        eps, n = (noise.draw(x0, step.generator) for _ in range(2))
        t = bench.any_times(len(x0), step.generator)
        if batch.loser is not None:
            x0, given, count = torch.cat([x0, batch.loser]), given.together(given), 2
            eps, n, t = (torch.cat([each, each]) for each in (eps, n, t))
        x_t = noise.noised(x0, eps, t)
        found = errors(student.model(x_t, t, given), x_t, x0, eps, t, given, n).chunk(count)
        if settings.objective == "sft":
            return found[0].mean()
        winner, loser = found
        if settings.objective == "cpo":
            return cpo_loss(winner, loser, settings.beta, settings.sft)
        with torch.no_grad():
            before = errors(reference(x_t, t, given), x_t, x0, eps, t, given, n).chunk(count)
        return dpo_loss(winner, loser, before[0], before[1], settings.beta)

    yield MethodStage("ncp", {"student": student}, [Turn("student", loss)])


def check_losers(settings: NcpSettings) -> None:
    """Raise UnboxError where pairs are needed and there are none, or the other way round."""
    if settings.objective == "sft" and settings.losers is not None:
        raise UnboxError("--losers does nothing for --objective sft, which learns the preferred alone")
    if settings.objective != "sft" and settings.losers is None:
        raise UnboxError(
            f"--objective {settings.objective} learns from pairs: name the images that are not preferred, "
            "--losers FOLDER (the names and captions of --data), or --losers shapes beside --data shapes"
        )


def row(before: System, settings: NcpSettings) -> System:
    """Sampled as before."""
    return before


NCP = Method("ncp", NcpSettings, stages, row)
