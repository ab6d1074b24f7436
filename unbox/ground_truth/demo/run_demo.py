"""The demo's stages, from a model to a report."""

from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

from unbox.edits.controls import CONTROL_RULE
from unbox.errors import FieldError
from unbox.ground_truth.artifacts import unedited_count
from unbox.ground_truth.demo.block_ablation import BlockAblation, ablate_blocks
from unbox.ground_truth.demo.collect_and_fit import (
    autoencoders,
    describe,
    draw,
    fit,
    gather,
    opened,
    unpacked,
)
from unbox.ground_truth.demo.demo_plan import DemoPlan
from unbox.ground_truth.demo.feature_search import Weighted
from unbox.ground_truth.demo.measure import find, measure
from unbox.ground_truth.demo.next_commands import following, remove_edits, save_edits
from unbox.ground_truth.demo.report import CHANCE, SUCCESS, Findings, rate, write_report
from unbox.ground_truth.demo.turn_on import Addition, MeasuredEdit, assess, choose, with_control
from unbox.ground_truth.effects import Cases, ModelUnderTest
from unbox.json_types import JSON
from unbox.model_identity import model_identity
from unbox.models import Model
from unbox.result_cache import Stage, Stages
from unbox.run_folder import RunFolder, named, run_folder
from unbox.sae import SAE
from unbox.shapes import Split
from unbox.shapes.detector import Detector


class Finished(NamedTuple):
    """Where the report is, what it reports, and what to type next."""

    report: Path
    findings: Findings
    following: str

    def summary(self) -> str:
        """What was found, what to open, what to try: lines for the terminal."""
        found = self.findings
        explained = ", ".join(f"{row['block']} {row['explained']:.2f}" for row in found.blocks)
        worked = found.working()
        factors = sorted({edit["factor"] for edit in worked})
        return f"""
Held-out explained variance: {explained}.
{len(worked)} of {len(found.edits)} factor values turned on in at least {SUCCESS:.0%} of \
pictures, random features in at most {CHANCE:.0%}: {", ".join(factors) or "none"}.

Open {self.report} in a browser. Then try:

{self.following}"""


def run(
    model: Model, plan: DemoPlan, folder: Path, say: Callable[[str], None] = print, options: str = ""
) -> Finished:
    """Run the demo in a folder on a model that draws the Shapes world, going on from what is there.

    `options` load the model on the command line, in the lines that are suggested at the end. Stages of
    another model or plan that the folder holds stay, unused.
    """
    plan = replace(plan, steps=model.system.steps if plan.steps is None else plan.steps)
    with run_folder(folder, "demo") as held:
        return _run(model, plan, held, say, options)


def _run(model: Model, plan: DemoPlan, held: RunFolder, say: Callable[[str], None], options: str) -> Finished:
    folder = held.path
    stages, blocks = Stages(folder / "stages", say), chosen_blocks(model, plan)
    subject = ModelUnderTest(
        model, Detector.load(), {"steps": plan.steps, "guidance": plan.guidance},
        unedited=unedited_count(plan.captions),
    )  # fmt: skip
    drawn, store, heldout = pictures(stages, subject, plan, blocks)
    ablated = without_blocks(stages, subject, drawn)
    trained = stages.run(
        "train",
        f"Fitting {len(blocks)} sparse autoencoders of {plan.latents} latents, {plan.k} active",
        plan.part("k", "latents", "tokens", "seed"),
        lambda to: fit(opened(store), plan, to),
        (store,),
    )
    claim(held, model, plan, trained)
    measured = stages.run(
        "evaluate",
        "Measuring them on held-out pictures",
        {},
        lambda _: measure(opened(heldout), autoencoders(trained)),
        (trained, heldout),
    )
    atlas = stages.run(
        "atlas",
        "Making their atlas, for the explorer",
        {},
        lambda to: describe(model, opened(heldout), autoencoders(trained), to),
        (trained, heldout),
    )
    found = stages.run(
        "find",
        "Asking which feature tells which factor",
        plan.part("values", "searched"),
        lambda _: find(plan, opened(store), opened(heldout), autoencoders(trained)),
        (trained, store, heldout),
    )
    edited = [turn_on(stages, subject, plan, (drawn, trained, found), i) for i in range(len(plan.values))]
    findings = Findings(
        plan,
        model.system.name,
        model.fingerprint,
        unpacked(drawn.result["test"]),
        ablated.result,
        measured.result,
        found.result,
        [stage.result for stage in edited],
        stages.done,
    )
    saved = save_edits(folder / "edits", findings.edits)
    best = max(range(len(saved)), key=lambda i: rate(findings.edits[i]["edited"]))
    further = following(options or f"--model {model.source}", plan, store, trained, atlas, saved[best])
    path = write_report(folder / "report.html", findings, further)
    return Finished(path, findings, further)


def claim(held: RunFolder, model: Model, plan: DemoPlan, trained: Stage) -> None:
    """Record what the demo in the folder is of, and remove the edits of another. Raises UnboxError where an
    SAE is not the one that its stage fitted: what came after names its results by the stage."""
    before = held.recorded()
    fitted: JSON = {name: sae.identity for name, sae in autoencoders(trained).items()}
    about = {"model": named(model.system.name, model_identity(model.fingerprint)), **asdict(plan)}
    held.claim({f"SAEs of {trained.folder.name}": fitted}, about)
    remove_edits(held.path / "edits", {tuple(value) for value in before.get("values", ())} - {*plan.values})


def without_blocks(stages: Stages, subject: ModelUnderTest, drawn: Stage) -> Stage[list[BlockAblation]]:
    """The stage that draws the test captions without each of the model's blocks."""
    blocks = subject.model.blocks
    return stages.run(
        "ablate",
        f"Drawing the test captions without each of {len(blocks)} blocks",
        {"blocks": blocks},
        lambda _: ablate_blocks(subject, unpacked(drawn.result["test"]), blocks),
        (drawn,),
    )


def chosen_blocks(model: Model, plan: DemoPlan) -> tuple[str, ...]:
    """The blocks of the plan, in the model's order. Raises UnboxError where the model has not got one."""
    asked = model.blocks if plan.blocks == ("all",) else plan.blocks
    if unknown := [name for name in asked if name not in model.blocks]:
        raise FieldError("", "blocks", unknown[0], f"should be 'all' or of {', '.join(model.blocks)}")
    return tuple(name for name in model.blocks if name in asked)


def pictures(
    stages: Stages, subject: ModelUnderTest, plan: DemoPlan, blocks: tuple[str, ...]
) -> tuple[Stage, Stage, Stage]:
    """The stages that draw: pictures to edit, and the stores to learn from and to measure on."""
    model = subject.model
    # Versions before named stages by all that they knew of the model: what they did is not done again.
    named_by = (model.fingerprint, model_identity(model.fingerprint))
    ways = [{"model": name, "blocks": blocks, **plan.part("steps", "guidance", "seed")} for name in named_by]
    pools = plan.part("trial_pool", "test_pool")
    drawing = ways[0] if stages.has("draw", {**ways[0], **pools}) else ways[1]
    drawn = stages.run(
        "draw",
        f"Drawing {plan.trial_pool + plan.test_pool} held-out captions, and reading them",
        {**drawing, **pools},
        lambda _: draw(subject, plan),
    )

    def collected(split: Split, n: int, seed: int) -> Stage:
        about = f"Recording what {len(blocks)} blocks add to {n} {split} pictures"
        settings = {**drawing, "n": n}
        return stages.run(
            f"collect-{split}", about, settings, lambda to: gather(subject, to, blocks, split, n, seed)
        )

    store = collected("train", plan.captions, plan.seed + 1)
    return drawn, store, collected("heldout", plan.held_out_captions, plan.seed + 2)


def turn_on(
    stages: Stages, subject: ModelUnderTest, plan: DemoPlan, after: tuple[Stage, Stage, Stage], number: int
) -> Stage[MeasuredEdit]:
    """Choose the edit for one target on the trial pool, count its success on the test pool. `after`: the
    stages that drew, trained and found."""
    factor, value = target = plan.values[number]
    drawn, trained, found = after

    def test() -> tuple[Cases, dict[str, SAE]]:
        cases = unpacked(drawn.result["test"]).lacking(target, plan.test_cases)
        return cases, autoencoders(trained)

    def build(_: Path) -> MeasuredEdit:
        cases, saes = test()
        ranked = [Weighted(*feature) for feature in found.result["ranked"][number]]
        additions = [Addition(tuple(ranked[:n]), s) for n, s in product(plan.sizes, plan.strengths)]
        trial = unpacked(drawn.result["trial"]).lacking(target, plan.trial_cases)
        return assess(subject, cases, target, choose(subject, trial, target, additions, saes), saes)

    settings = {"target": target, **plan.part("sizes", "strengths", "trial_cases", "test_cases")}
    name = f"{factor}-{value}".replace(" ", "-")
    made = stages.run(f"edit-{name}", f"Turning on {factor}: {value}", settings, build, after)
    stage = stages.run(
        f"control-{name}",
        f"Turning on random features instead, for {factor}: {value}",
        CONTROL_RULE,
        lambda _: with_control(subject, *test(), made.result, plan.seed + number),
        (made,),
    )
    edited, control = stage.result["edited"], stage.result["control"]
    stages.say(
        f"    {edited['hits']} of {edited['n']} pictures; random features {control['hits']} of {control['n']}"
    )
    return stage
