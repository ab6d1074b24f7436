"""How long an image takes, alone, recorded and edited, and what memory."""

import time
from collections.abc import Callable
from math import isqrt
from statistics import median

import psutil
import torch

from unbox.capture import record
from unbox.capture.memory_plan import Networks, memory_plan
from unbox.capture.planned_run import PlannedRun
from unbox.edit import Direction
from unbox.experiments.verify.check_outcome import CheckFinding, not_possible
from unbox.experiments.verify.subject import Subject
from unbox.json_types import JSON
from unbox.memory_limit import size_text
from unbox.process_memory import process_peak

#: Accelerators of which torch counts the peak.
COUNTED = ("cuda", "xpu")


def speed(subject: Subject) -> CheckFinding:
    """Seconds of an image from prompt to picture: the median, with half the range."""
    prompt, block = subject.prompts[0], subject.blocks[-1]
    pushed = Direction(block, tuple([1.0] * subject.width(block))).add(1.0)

    def drawn(**options: object) -> None:
        subject.model.generate(prompt, seed=subject.options.seed, **subject.run, **options)  # type: ignore[arg-type]

    def recorded() -> None:
        with record(subject.model, subject.blocks):
            drawn()

    ways = {"plain": drawn, "four blocks recorded": recorded, "one edit": lambda: drawn(edits=pushed)}
    figures: dict[str, JSON] = {name: _timed(subject, way) for name, way in ways.items()}
    said = "; ".join(f"{name} {_seconds(times)}" for name, times in figures.items())
    return CheckFinding(
        "pass", f"seconds an image, median ± half the range of {subject.options.repeats}: {said}", figures
    )


def _timed(subject: Subject, way: Callable[[], None]) -> list[float]:
    """Seconds of each repeat, after one that is not timed."""
    found = []
    for number in range(subject.options.repeats + 1):
        subject.wait()
        begin = time.perf_counter()
        way()
        subject.wait()
        found += [time.perf_counter() - begin] * (number > 0)
    return found


def _seconds(times: JSON) -> str:
    assert isinstance(times, list)
    return f"{median(times):.3f} ± {(max(times) - min(times)) / 2:.3f}"


def memory(subject: Subject) -> CheckFinding:
    """The most that an image takes of the accelerator's memory, or of this process's where there is none."""
    device = subject.model.device
    counter = getattr(torch, device.type) if device.type in COUNTED else None
    if counter is not None:
        counter.reset_peak_memory_stats(device)
    subject.model.generate(subject.prompts[0], seed=subject.options.seed, **subject.run)
    subject.wait()
    counted = _counted(subject, card=device.type != "cpu")
    if counter is not None:
        peak, there = counter.max_memory_allocated(device), counter.get_device_properties(device).total_memory
        of = f"{device}'s {size_text(there)}"
    elif device.type == "cpu":
        peak, there, of = process_peak(), psutil.virtual_memory().total, "this process's whole run"
    else:
        return not_possible(f"torch counts no peak of memory on {device.type}", counted=counted)
    reason = f"{size_text(peak)} at the peak of {of}; `unbox models --plan` counts {size_text(counted)}"
    return CheckFinding("pass", reason, {"peak": peak, "counted": counted, "there": there})


def _counted(subject: Subject, card: bool) -> int:
    """Bytes that the arithmetic of `unbox models NAME --plan` says of one image, without offload."""
    model, run = subject.model, subject.run
    parts = {id(part): (name, part) for name, part in reversed(list(model.networks()))}
    sizes = {
        name.removesuffix(".unet"): sum(t.numel() for t in part.parameters()) for name, part in parts.values()
    }
    unets = {
        name: dict(each.unet.config) for name, each in zip(("unet", "refiner"), model.pipelines, strict=False)
    }
    largest = max(tensor.numel() for _, part in parts.values() for tensor in part.parameters())
    options = PlannedRun(
        batch=1,
        size=isqrt(run["height"] * run["width"]),
        guidance=run["guidance"],
        steps=run["steps"],
        dtype=str(model.dtype).removeprefix("torch."),  # type: ignore[arg-type]  # checked there
        card=card,
    )
    plan = memory_plan(
        model.system, Networks(sizes, unets, dict(model.pipeline.vae.config), largest), options
    )
    return plan.on_card or plan.in_memory
