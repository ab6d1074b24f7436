"""Combinations of settings that give garbage, noticed before they are sampled."""

import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from unbox.errors import UnboxError
from unbox.models.calls import Sampling
from unbox.models.system_table import GENERIC, SYSTEMS
from unbox.models.systems import System

#: Names that trainers give to every file: they tell nothing of what is in it.
UNTOLD = (
    "pytorch_lora_weights.safetensors",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
)
#: Schedulers of few-step models, and words in their names -> the system that a finetune is sampled as.
_FEW_STEP_SCHEDULERS = {
    "EulerAncestralDiscreteScheduler": "sdxl-turbo",
    "LCMScheduler": "lcm-sdxl",
    "TCDScheduler": "tcd-sdxl-lora",
}
_FEW_STEP_NAMES = {
    "turbo": "sdxl-turbo",
    "lightning": "sdxl-lightning-4step",
    "hyper": "hyper-sd-8step-lora",
    "lcm": "lcm-sdxl-lora",
    "tcd": "tcd-sdxl-lora",
    "dmd": "dmd2-4step",
    "pcm": "pcm-sdxl-4step-lora",
    "flash": "sdxl-flash",
}
_FEW_STEP = re.compile(
    "turbo|lightning|(?<![a-z])(?:hyper(?=-?sd|[^a-z]|$)|lcm|tcd|dmd(?=2?(?:[^a-z]|$))|pcm|flash)",
    re.IGNORECASE,
)
#: Whether no image can come of it, and what is wrong.
Problem = tuple[bool, str]


def check_sampling(sampling: Sampling, scheduler: SchedulerMixin) -> None:
    """Warn (UserWarning) or refuse (UnboxError) before sampling, with the reason."""
    _report([*_steps(sampling), *_spacing(sampling, scheduler), *_guidance(sampling)])


def check_pictures(pipeline: DiffusionPipeline, control: bool = False) -> None:
    """Refuse pipelines that need pictures beside the prompt (UnboxError): a ControlNet's, an IP-Adapter's.

    `control`: whether a picture for the ControlNet is given.
    """
    if getattr(pipeline, "controlnet", None) is not None and not control:
        needs = "ControlNet"
    elif getattr(pipeline.unet.config, "encoder_hid_dim_type", None) == "ip_image_proj":
        needs = "IP-Adapter"
    else:
        return
    raise UnboxError(
        f"this model's {needs} needs a picture that prompts do not bring: call model.pipeline(...) with it, "
        "inside unbox.record(model, ...) to record the run"
    )


def check_weights(system: System, shipped: str | None, source: str) -> None:
    """Compare the prediction type that a system samples by with the one shipped beside the weights.

    `shipped`: `prediction_type` of the checkpoint's scheduler, None where it cannot be known.
    """
    if shipped is None or not system.prediction or shipped == system.prediction:
        return
    text = (
        f"system '{system.name}' reads the UNet's output as {system.prediction}, but the scheduler "
        f"shipped with {source} says {shipped}; choose a system with that prediction, or "
        f"weights trained for {system.prediction}"
    )
    _report([("sample" in (shipped, system.prediction), text)])


def check_part(system: System, file: str) -> None:
    """Compare a system with the ones that a UNet or LoRA file, known by its name, is published for."""
    if file in UNTOLD:
        return
    owners = [
        row
        for row in SYSTEMS.values()
        if row.distilled and any(part.file.rpartition("/")[2] == file for part in row.parts)
    ]
    if owners and not any(_ways(row) == _ways(system) for row in owners):
        text = (
            f"{file} is published for {owners[0].name}, and '{system.name}' samples another way; "
            f"add system='{owners[0].name}' (--system {owners[0].name})"
        )
        _report([(all(row.prediction != system.prediction for row in owners), text)])


def check_unnamed(source: str, scheduler: SchedulerMixin, titles: Collection[str] = ()) -> None:
    """Warn where a checkpoint without a row ships the scheduler of a few-step model, or has the name of one
    (its file's or folder's, or one of `titles`): a finetune of one."""
    kind = type(scheduler).__name__
    if kind in _FEW_STEP_SCHEDULERS and not (
        kind.startswith("EulerAncestral") and scheduler.config["timestep_spacing"] != "trailing"
    ):
        system, sign = _FEW_STEP_SCHEDULERS[kind], f"ships {kind}"
    else:
        found = [
            (name, match[0]) for name in (Path(source).name, *titles) if (match := _FEW_STEP.search(name))
        ]
        if not found:
            return
        system, sign = _FEW_STEP_NAMES[found[0][1].lower()], f"is called {found[0][0]}"
    text = (
        f"{source} {sign}, as few-step models do, and does not say which it is: it is sampled in "
        f"{GENERIC.steps} steps with guidance {GENERIC.guidance:g}. If it is a finetune of one, say so, like "
        f"system='{system}' (--system {system}), or give steps and guidance yourself"
    )
    _report([(False, text)])


def _ways(row: System) -> tuple[object, ...]:
    """What must agree for weights of one system to be sampled by another."""
    return row.prediction, row.scheduler, row.timesteps, row.scheduler_config.get("timestep_spacing")


def _report(problems: list[Problem]) -> None:
    for fatal, text in problems:
        if fatal:
            raise UnboxError(text)
        warnings.warn(text, stacklevel=4)


def _steps(sampling: Sampling) -> Iterator[Problem]:
    system, steps, strength = sampling.system, sampling.steps, sampling.strength
    if steps < 1:
        yield True, f"{steps} steps were asked for; at least one is needed"
    elif sampling.call.image is not None and not 1 <= int(steps * strength) <= steps:
        need = f"give a strength of at most 1 and at least {1 / steps:.2g}, or more steps"
        yield True, f"strength {strength:g} of {steps} step(s) is {int(steps * strength)} of them; {need}"
    elif system.timesteps and steps not in system.timesteps:
        grids = ", ".join(str(n) for n in system.timesteps)
        yield True, f"{system.name} has a fixed timestep grid of {grids} step(s), not {steps}"
    elif system.step_counts and steps not in system.step_counts:
        counts = ", ".join(str(n) for n in system.step_counts)
        yield False, f"{system.name} was trained for {counts} step(s); {steps} will look worse"


def _keeps_some(sampling: Sampling) -> bool:
    """Whether something of a starting image is left: inpainting at full strength begins with noise alone."""
    call = sampling.call
    return call.image is not None and (call.mask is None or sampling.strength < 1)


def _spacing(sampling: Sampling, scheduler: SchedulerMixin) -> Iterator[Problem]:
    """Latents start as pure noise; a schedule that begins lower (`leading` at few steps) gives garbage."""
    system, steps = sampling.system, sampling.steps
    if system.grid(steps) or steps < 1 or _keeps_some(sampling):
        return
    scheduler.set_timesteps(steps)
    first, trained = float(scheduler.timesteps[0]), scheduler.config["num_train_timesteps"]
    if first < 0.9 * trained:
        text = (
            f"with '{scheduler.config.get('timestep_spacing')}' spacing {steps} step(s) begin at "
            f"timestep {first:g} of {trained}, below the pure noise that the image starts from; "
            "take more steps or a system with 'trailing' spacing"
        )
        yield first < 0.5 * trained, text


def _guidance(sampling: Sampling) -> Iterator[Problem]:
    system = sampling.system
    if sampling.guidance > system.guidance_limit and system.distilled:
        text = f"guidance is distilled into {system.name}: classifier-free guidance "
        most = f"at most {system.guidance_limit:g}" if system.guidance_limit > 1 else "0"
        yield False, text + f"{sampling.guidance:g} on top oversaturates; use {most}"
    call = sampling.call
    micros = call.micro if isinstance(call.micro, Sequence) else [call.micro]
    single = call.negative_prompt is None or isinstance(call.negative_prompt, str)
    negatives = [call.negative_prompt] if single else call.negative_prompt or ()
    idle = {
        "a negative prompt has": any(negative is not None for negative in negatives),
        "guidance_rescale has": bool(call.guidance_rescale),
        "negative sizes have": any(micro is not None and micro.negative is not None for micro in micros),
    }
    for what in (name for name, given in idle.items() if given):
        if system.guidance_embedded:
            yield False, f"{what} no effect on {system.name}, whose UNet reads the guidance scale itself"
        elif sampling.guidance <= 1:
            yield False, f"{what} no effect at guidance {sampling.guidance:g}; it needs more than 1"
