"""What an experiment's file leaves to be chosen: `steps = "auto"`, `blocks = "auto"`, `strength = "auto"`.

Chosen on pictures that are not reported: of the plan's `auto_prompts`, or of its own prompts under other
seeds. The effect of an edit is the share of pictures that a critic reads the target in or, without a target,
the first figure of the first metric. Artifacts are a critic's, where the target is of one.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from unbox.edit import Edits
from unbox.edits import bind, save_edits
from unbox.edits.strength import at_strength, of_blocks, within_steps
from unbox.errors import UnboxError
from unbox.experiments.calibration import Calibration, calibrate
from unbox.experiments.commitment import Commitment, choose_blocks, choose_steps, commitment
from unbox.experiments.critics import Critic, Figures, ImagePair, Metric, critics, critics_by_place
from unbox.experiments.experiment_plan import AutoOptions, Condition, ExperimentPlan
from unbox.experiments.metrics import make_metric
from unbox.experiments.picture_density import artifact_threshold
from unbox.experiments.tables import write_table
from unbox.json_types import JSON
from unbox.mask import Mask
from unbox.models import Model
from unbox.prompt import Prompt
from unbox.result_cache import ResultCache, key_of
from unbox.sae import SAE

#: Pictures on which choices are made.
PICTURES = 24


@dataclass(frozen=True)
class AutoChoice:
    """What was chosen for a condition, and by what."""

    condition: str
    edits: Edits
    """As chosen, with their SAEs."""
    curves: Commitment | None = None
    calibration: Calibration | None = None

    @property
    def summary(self) -> str:
        """Blocks, steps and strength in a line."""
        windows = dict.fromkeys(edit.steps for edit in self.edits)
        shown = [f"{w[0]} to {w[1] - 1}" for w in windows if w is not None]
        parts = [", ".join(self.edits.blocks), f"steps {', '.join(shown)}" if shown else "all steps"]
        if self.calibration is not None:
            found = self.calibration
            parts.append(
                f"strength {found.strength:.3g}" + ("" if found.reached else ", which is not enough")
            )
        return "; ".join(parts)


class TrialPictures:
    """The pictures on which an experiment's edits are chosen, drawn without edits when first needed."""

    def __init__(self, plan: ExperimentPlan, model: Model, results: ResultCache) -> None:
        self.plan, self.model, self.results = plan, model, results
        prompts = plan.auto_prompts or plan.prompts
        self.prompts = list(islice(cycle(prompts), PICTURES))
        taken = () if plan.auto_prompts else plan.seeds
        free = (seed for seed in count() if seed not in taken)
        rounds = list(islice(free, -(-PICTURES // len(prompts))))
        self.seeds = [rounds[i // len(prompts)] for i in range(PICTURES)]
        self._plain: list[Image.Image] | None = None

    def draw(self, edits: Sequence[Edits | None]) -> list[Image.Image]:
        """The pictures, each with its edits."""
        images: list[Image.Image] = self.model.generate(
            [prompt.text for prompt in self.prompts],
            seeds=self.seeds,
            edits=edits,
            batch_size=self.plan.batch_size,
            **self.plan.sampling,
        )
        return images

    @property
    def plain(self) -> list[Image.Image]:
        """Without edits."""
        if self._plain is None:
            self._plain = self.draw([None] * PICTURES)
        return self._plain

    def measured(self, condition: Condition, edits: Edits) -> dict[str, list[float]]:
        """`effect` and `artifact` of each picture with the edits, from the cache where they are there."""
        key: JSON = [
            "auto", edits.to_json(), condition.place, condition.target, list(self.plan.metrics[:1]),
            [[prompt.text, seed] for prompt, seed in zip(self.prompts, self.seeds, strict=True)],
        ]  # fmt: skip
        return self.results.get(key, self._measured, condition, edits)

    def _measured(self, condition: Condition, edits: Edits) -> dict[str, list[float]]:
        each = [placed(edits, condition.place, prompt)[0] for prompt in self.prompts]
        after = self.draw([one if len(one) else None for one in each])
        pairs = [
            ImagePair(b, a, prompt.text, None, condition.target)
            for b, a, prompt in zip(self.plain, after, self.prompts, strict=True)
        ]
        critic = target_critic(condition)
        if critic is None:
            name = self.plan.metrics[0]
            figures = make_metric(name, self.plan.clip_model, self.model.device)(pairs)
            effects = [next(iter(row.values())) for row in figures]
        else:
            effects = [row["success"] for row in _all_figures(critic.metrics, pairs)]
        if critic is None or critic.strangeness is None:
            return {"effect": effects, "artifact": [0.0] * len(effects)}
        limit = artifact_threshold(critic.strangeness(self.plain))
        spoilt = critic.strangeness(after) > limit
        return {"effect": effects, "artifact": [float(each) for each in spoilt]}


def _all_figures(metrics: Mapping[str, Metric], pairs: Sequence[ImagePair]) -> list[Figures]:
    found: list[Figures] = [{} for _ in pairs]
    for metric in metrics.values():
        for row, figures in zip(found, metric(pairs), strict=True):
            row |= figures
    return found


def placed(edits: Edits, place: str | None, prompt: Prompt) -> tuple[Edits, Mask | None]:
    """The edits where a critic's place is in the picture of a prompt, and its mask; as they are without."""
    mask = None if place is None else critics_by_place()[place].place_mask(place, prompt)
    return (edits if mask is None else Edits(tuple(replace(e, where=mask) for e in edits))), mask


def target_critic(condition: Condition) -> Critic | None:
    """The critic that reads a condition's target."""
    if condition.target is None:
        return None
    return next(critic for critic in critics().values() if condition.target[0] in critic.targets)


def choose(
    plan: ExperimentPlan, model: Model, saes: Mapping[str, SAE], out: Path, context: JSON
) -> tuple[ExperimentPlan, list[AutoChoice]]:
    """The plan with everything chosen, and what was chosen, each also as a file of edits in `out`/edits.

    A control has what its edit has. Results go into `out`/auto, so that a stopped run goes on. Raises
    UnboxError for steps to be chosen where there is one.
    """
    if not any(condition.auto for condition in plan.conditions):
        return plan, []
    pictures = TrialPictures(plan, model, ResultCache(out / "auto", context))
    steps = model.system.steps if plan.steps is None else plan.steps
    if steps == 1 and any(c.auto and c.auto.steps for c in plan.conditions):
        raise UnboxError('steps = "auto" chooses among several steps; these runs have one (steps = ...)')
    found: dict[str, AutoChoice] = {}
    conditions = []
    for condition in plan.conditions:
        if condition.auto:
            plain = replace(condition, control=None)
            if plain.label not in found:
                found[plain.label] = _chosen(pictures, plain, condition.auto, bind(plain.edits, saes), steps)
            condition = replace(condition, edits=found[plain.label].edits)
        conditions.append(condition)
    choices = list(found.values())
    _write(choices, out)
    return replace(plan, conditions=tuple(conditions)), choices


def _chosen(
    pictures: TrialPictures, condition: Condition, auto: AutoOptions, edits: Edits, steps: int
) -> AutoChoice:
    """Blocks first, then steps, then the strength of what is left."""

    def effect(some: Edits) -> np.ndarray:
        return np.array(pictures.measured(condition, some)["effect"])

    def means(some: Edits) -> tuple[float, float]:
        measured = pictures.measured(condition, some)
        return float(np.mean(measured["effect"])), float(np.mean(measured["artifact"]))

    curves = commitment(effect, edits, steps) if auto.blocks or auto.steps else None
    if curves is not None and auto.blocks:
        edits = of_blocks(edits, choose_blocks(effect, edits, curves))
    if curves is not None and auto.steps:
        left = commitment(effect, edits, steps) if auto.blocks else curves
        edits = within_steps(edits, *choose_steps(effect, edits, left))
    if not auto.strength:
        return AutoChoice(condition.label, edits, curves)
    assert auto.reach is not None
    calibration = calibrate(means, edits, auto.reach)
    return AutoChoice(condition.label, at_strength(edits, calibration.strength), curves, calibration)


def file_name(condition: str) -> str:
    """What a condition's file of edits is called in the folder `edits`."""
    return f"{re.sub(r'[^a-zA-Z0-9.=-]+', '_', condition)}-{key_of(condition, 6)}.json"


def _write(choices: Sequence[AutoChoice], out: Path) -> None:
    (out / "edits").mkdir(exist_ok=True)
    rows: list[dict[str, JSON]] = []
    for choice in choices:
        save_edits(choice.edits, out / "edits" / file_name(choice.condition))
        about = {"condition": choice.condition}
        rows += [{**about, **row} for row in (choice.curves.rows if choice.curves else ())]
        tried = choice.calibration.tried if choice.calibration else ()
        rows += [
            {
                **about,
                "curve": "strength",
                "at": str(t.strength),
                "effect": t.effect,
                "artifacts": t.artifacts,
            }
            for t in tried
        ]
    write_table(out / "chosen.csv", rows)
