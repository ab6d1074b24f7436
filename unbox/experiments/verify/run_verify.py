"""Every check in turn, and the page that they end in."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from activation_store.files import write_text
from unbox.errors import UnboxError
from unbox.experiments.verify import sampling_checks
from unbox.experiments.verify.ablation_strip import ablations
from unbox.experiments.verify.check_outcome import (
    CheckFinding,
    CheckOutcome,
    Picture,
    exit_code,
    not_possible,
)
from unbox.experiments.verify.machine_facts import GATED, machine, weights_facts
from unbox.experiments.verify.sae_checks import explained
from unbox.experiments.verify.speed_memory import memory, speed
from unbox.experiments.verify.subject import Subject
from unbox.image_uri import image_uri
from unbox.json_types import JSON
from unbox.models.systems import System
from unbox.templates import Templates

#: Version of the JSON in the page.
VERSION = 1
#: Longer side of the page's pictures, and their quality; their hashes are of the whole pictures.
SHOWN, QUALITY = 320, 88


class Check(NamedTuple):
    """A row of the page: what is checked, what is asked, and by whom."""

    name: str
    asks: str
    make: Callable[[Subject], CheckFinding]


CHECKS = (
    Check(
        "weights",
        "Is every number of the weights finite, and which weights are they?",
        sampling_checks.weights,
    ),
    Check(
        "repeats", "Does the plain diffusers pipeline draw the same bits twice here?", sampling_checks.repeats
    ),
    Check("hooks", "Do clock, seeds and recording leave every bit of it alone?", sampling_checks.hooks),
    Check("identity edits", "Do edits that change nothing change nothing?", sampling_checks.identity),
    Check("sigmas", "Is the noise schedule the formula's?", sampling_checks.sigmas),
    Check("picture", "Is a picture drawn, finite and not blank?", sampling_checks.picture),
    Check("ablation", "What does each of four blocks add to the picture?", ablations),
    Check(
        "explained variance",
        "Do SAEs explain what this model computes as well as was said of them?",
        explained,
    ),
    Check("speed", "How long does an image take?", speed),
    Check("memory", "How much memory does it take?", memory),
)


@dataclass(frozen=True)
class Verification:
    """What was found, on what, with what."""

    weights: dict[str, JSON]
    machine: dict[str, JSON]
    run: dict[str, JSON]
    outcomes: tuple[CheckOutcome, ...]

    @property
    def code(self) -> int:
        """The exit code: see `check_outcome.exit_code`."""
        return exit_code(self.outcomes)

    def counted(self) -> str:
        """How many checks passed, failed, were not possible."""
        verdicts = [outcome.finding.verdict for outcome in self.outcomes]
        return ", ".join(f"{verdicts.count(v)} {w}" for v, w in WORDS.items() if v in verdicts)

    def to_json(self) -> dict[str, JSON]:
        """All of it but the pictures, of which the hashes of their pixels."""
        return {
            "version": VERSION,
            "weights": self.weights,
            "machine": self.machine,
            "run": self.run,
            "checks": [outcome.to_json() for outcome in self.outcomes],
            "pictures": [
                {"check": outcome.name, "caption": shown.caption, "size": list(shown.image.size),
                 "sha256": hashlib.sha256(shown.image.convert("RGB").tobytes()).hexdigest()}
                for outcome in self.outcomes for strip in outcome.finding.strips for shown in strip
            ],
        }  # fmt: skip

    def write(self, path: Path) -> Path:
        """The page: one file with its pictures, and the JSON in its element `evidence`."""
        strips = {
            o.name: [[_shown(each) for each in strip] for strip in o.finding.strips] for o in self.outcomes
        }
        page = Templates("unbox.experiments").render(
            "verify.html", found=self, strips=strips, gated=GATED, evidence=self.to_json(),
            tables=_tables(self),
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page)
        return path


#: How each verdict is counted.
WORDS = {"pass": "passed", "fail": "failed", "not possible here": "not possible here"}


def verify(subject: Subject, say: Callable[[str], None] = print) -> Verification:
    """Every check of a model; `say` is told of each as it ends.

    What a check is refused, or the device cannot do, is a finding of it: UnboxError, and torch's
    RuntimeError.
    """
    outcomes = []
    for check in CHECKS:
        begin = time.perf_counter()
        try:
            finding = check.make(subject)
        except (UnboxError, RuntimeError) as error:
            finding = _of_error(error)
        outcomes.append(CheckOutcome(check.name, check.asks, finding, time.perf_counter() - begin))
        say(f"{finding.verdict:18} {check.name}: {finding.reason}")
    model = subject.model
    facts = weights_facts(model.system, model.source) | {"identity": model.identity}
    run = {**subject.run, "dtype": str(model.dtype).removeprefix("torch."), "prompts": list(subject.prompts),
           "seed": subject.options.seed, "scheduler": type(model.pipeline.scheduler).__name__}  # fmt: skip
    return Verification(facts, machine(model.device), run, tuple(outcomes))


def absent(system: System, reason: str, device: torch.device) -> Verification:
    """What can be said of a system whose weights cannot be had here, and how to come by them."""
    weights = not_possible(f"{reason} {GATED}")
    others = not_possible("there are no weights here to check it with")
    outcomes = [CheckOutcome(check.name, check.asks, others, 0.0) for check in CHECKS[1:]]
    first = CheckOutcome(CHECKS[0].name, CHECKS[0].asks, weights, 0.0)
    return Verification(weights_facts(system, ""), machine(device), {}, (first, *outcomes))


def _of_error(error: Exception) -> CheckFinding:
    text = " ".join(str(error).split())[:600]
    if isinstance(error, torch.OutOfMemoryError):
        return not_possible(f"it does not fit in the memory of this device: {text}")
    if isinstance(error, NotImplementedError):
        return not_possible(f"this device or torch cannot do it: {text}")
    return CheckFinding("fail", text if isinstance(error, UnboxError) else f"{type(error).__name__}: {text}")


def _shown(picture: Picture) -> dict[str, str]:
    """A picture's data and words for the page."""
    image = picture.image.convert("RGB")
    # Small pictures are shown larger, their pixels as they are.
    scale = SHOWN / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    return {"uri": image_uri(image, quality=QUALITY), "caption": picture.caption}


def _tables(found: Verification) -> Sequence[tuple[str, dict[str, JSON]]]:
    """The page's tables of facts."""
    hashes = next((o.finding.figures.get("sha256") for o in found.outcomes if o.name == "weights"), None)
    tables = [("Weights", found.weights), ("Run", found.run), ("Machine", found.machine)]
    named = {f"{name}, SHA-256": value for name, value in hashes.items()} if isinstance(hashes, dict) else {}
    return [(title, {**facts, **named} if title == "Weights" else facts) for title, facts in tables]
