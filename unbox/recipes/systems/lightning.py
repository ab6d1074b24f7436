"""SDXL-Lightning (2402.13929): fewer steps in stages, by squared error, then against a critic of moves.

The first stage learns where the guided teacher's DDIM moves end, by squared error. Each later one learns from
the student before it against a critic that sees where a move began, then against one that does not.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from unbox.models.systems import System
from unbox.recipes.systems.distillation_controls import dmd2, ladd
from unbox.recipes.systems.method_settings import LightningSettings
from unbox.recipes.systems.shared_unet import RoleNetwork, bound, guided
from unbox.recipes.systems.unet_critic import UNetCritic
from unbox.recipes.systems.workbench import Method, MethodBatch, MethodStage, Workbench
from unbox.training.loop import Step, Turn
from unbox.training.noise import Noise
from unbox.training.objectives.adversarial import softplus_critic_loss, softplus_generator_loss
from unbox.training.objectives.progressive import ddim_moves, progressive_loss, started, trailing_timesteps


def stages(bench: Workbench[LightningSettings]) -> Iterator[MethodStage]:
    """The paper's, or a control's one."""
    settings = bench.settings
    if settings.arm in ("ladd", "dmd2"):
        yield (ladd if settings.arm == "ladd" else dmd2)(bench)
        return
    teacher, guidance, before = bench.networks.teacher(), settings.guidance, settings.teacher_steps
    for place, steps in enumerate(settings.student_steps):
        clean = settings.predict_x0 and steps == 1
        kinds = ["mse"] if place == 0 or clean or settings.arm == "mse" else []
        if settings.arm == "lightning" and place > 0:
            kinds += ["conditional", "unconditional"]
        for kind in kinds:
            yield _Moves(bench, teacher, guidance, before, steps, clean).stage(kind)
        if place + 1 < len(settings.student_steps):
            teacher = bench.networks.frozen_copy(bench.student, f"teacher{place}")
            guidance, before = 1.0, steps


class _Moves:
    """The moves of one stage: `before // steps` of the teacher for one of the student."""

    def __init__(
        self,
        bench: Workbench[LightningSettings],
        teacher: RoleNetwork,
        guidance: float,
        before: int,
        steps: int,
        clean: bool,
    ) -> None:
        self.bench, self.teacher, self.guidance, self.steps = bench, teacher, guidance, steps
        self.many = before // steps
        self.grid = trailing_timesteps(before).to(bench.device)
        self.noise = bench.noise
        self.own = Noise(self.noise.abar, "sample") if clean else self.noise
        self.student = bench.role(bench.student)

    def drawn(self, step: Step) -> tuple[MethodBatch, Tensor, Tensor]:
        """A batch, x_t, and the path of the teacher's moves (moves + 1, B) from it."""
        batch = self.bench.batch(step)
        x0, generator = batch.x0, step.generator
        first = self.many * torch.randint(self.steps, (len(x0),), generator=generator, device=x0.device)
        path = self.grid[first + torch.arange(self.many + 1, device=x0.device).unsqueeze(1)]
        x_t = started(self.noise, x0, self.noise.draw(x0, generator), path[0])
        return batch, x_t, path

    @torch.no_grad()
    def target(self, batch: MethodBatch, x_t: Tensor, path: Tensor) -> Tensor:
        """Where the teacher's moves end."""
        nothing = self.bench.unconditional(batch.given)
        predict = guided(self.teacher, batch.given, nothing, self.guidance)
        return ddim_moves(predict, self.noise, x_t, path)

    def moved(self, batch: MethodBatch, x_t: Tensor, path: Tensor) -> Tensor:
        """Where the student's one move ends."""
        return ddim_moves(bound(self.student.model, batch.given), self.own, x_t, path[[0, -1]])

    def stage(self, kind: str) -> MethodStage:
        """Squared error, or a critic of pairs, or of ends."""
        name = f"{self.steps}-{kind}"
        if kind == "mse":
            return MethodStage(name, {"student": self.student}, [Turn("student", self.squared_error)])
        bench, pairs = self.bench, kind == "conditional"
        encoder = bench.networks.learner(f"critic{name}", encoder=True)
        judge = UNetCritic(encoder, bench.side, pairs)
        critic = bench.role(judge, bench.settings.critic_rate)

        def critic_loss(step: Step) -> Tensor:
            batch, x_t, path = self.drawn(step)
            with torch.no_grad():
                real = self.target(batch, x_t, path)
                fake = self.moved(batch, x_t, path)
            start = (torch.cat([x_t, x_t]), torch.cat([path[0], path[0]]))
            ends, given = torch.cat([path[-1], path[-1]]), batch.given.together(batch.given)
            logits = critic.model(torch.cat([real, fake]), ends, given, start if pairs else None)
            return softplus_critic_loss(*logits.chunk(2))

        def student_loss(step: Step) -> Tensor:
            batch, x_t, path = self.drawn(step)
            fake = self.moved(batch, x_t, path)
            logits = judge(fake, path[-1], batch.given, (x_t, path[0]) if pairs else None)
            return softplus_generator_loss(logits)

        turns = [Turn("critic", critic_loss), Turn("student", student_loss)]
        return MethodStage(name, {"critic": critic, "student": self.student}, turns)

    def squared_error(self, step: Step) -> Tensor:
        batch, x_t, path = self.drawn(step)
        target = self.target(batch, x_t, path)
        return progressive_loss(
            bound(self.student.model, batch.given), self.own, x_t, path[0], path[-1], target
        )


def row(before: System, settings: LightningSettings) -> System:
    """Sampled as SDXL-Lightning is; DMD2 by LCM's rule."""
    steps = settings.student_steps[-1]
    dmd = settings.arm == "dmd2"
    grid = tuple(trailing_timesteps(steps)[:-1].tolist())
    config = {**before.scheduler_config, "timestep_spacing": "trailing"}
    if dmd:
        config = {"original_inference_steps": steps}
    return replace(
        before,
        title=f"{before.title}, {settings.arm} in {steps} step{'s' * (steps > 1)}",
        scheduler="LCMScheduler" if dmd else "EulerDiscreteScheduler",
        scheduler_config=config | ({"prediction_type": "sample"} if settings.predict_x0 else {}),
        prediction="sample" if settings.predict_x0 else before.prediction,
        steps=steps,
        step_counts=(steps,),
        timesteps={steps: grid} if dmd else None,
        guidance=0.0,
        distilled=True,
    )


LIGHTNING = Method("lightning", LightningSettings, stages, row)
