"""Running an experiment: a manifest first, then one file per row, so that any stop loses one batch at most.

A **row** is one image: a condition, a prompt, a seed. Its name is a hash of everything that decides it, so a
second run of the same line makes only what is missing, and a changed file keeps what still holds.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from einops import reduce
from PIL import Image
from tqdm.auto import tqdm

from activation_store.files import write_json
from unbox.edit import Edits
from unbox.edits import EditHook, bind, random_control
from unbox.experiments.artifact_columns import DENSITY, add_artifacts
from unbox.experiments.auto_choice import choose, placed
from unbox.experiments.critics import Figures, ImagePair
from unbox.experiments.experiment_plan import Condition, ExperimentPlan
from unbox.experiments.metrics import REVISIONS, make_metric
from unbox.experiments.report import write_report
from unbox.experiments.result_names import MANIFEST, ResultNames
from unbox.json_types import JSON
from unbox.mask import Mask
from unbox.models import Model
from unbox.models.png_record import save_png
from unbox.models.prompt_length import counted, warn_of_cut
from unbox.prompt import Prompt
from unbox.result_cache import cached, damaged, key_of
from unbox.run_folder import RunFolder, run_folder
from unbox.sae import SAE, load_saes
from unbox.stopping import unit


@dataclass(frozen=True)
class Row:
    """One image to make: `condition` None is the unedited one."""

    condition: Condition | None
    prompt: Prompt
    prompt_index: int
    seed: int
    edits: Edits
    mask: Mask | None

    def key(self, context: str) -> str:
        """Content hash of what decides the image and its figures. `context`: of model, SAEs, settings."""
        condition = self.condition
        control, target = (None, None) if condition is None else (condition.control, condition.target)
        mask = None if self.mask is None else self.mask.to_json()
        return key_of([context, self.prompt.text, self.seed, self.edits.to_json(), control, target, mask])


Rows = Sequence[tuple[Row, Path]]  # each with the file of its image


def run_experiment(
    plan: ExperimentPlan, out: str | Path, model: Model, progress: bool = True
) -> list[dict[str, JSON]]:
    """Run what is missing of an experiment and write its tables, plots and report into `out`.

    `model`: the plan's, loaded. Returns the rows, each a dict of what it is and its figures. Rows of another
    model, SAE or plan that the folder holds stay, unused.
    Raises UnboxError where the folder holds something else, or an edit cannot be made.
    """
    out = Path(out)
    for name in plan.metrics:
        make_metric(
            name, plan.clip_model, model.device
        )  # what cannot be measured is said before anything is made
    saes = {} if plan.saes is None else dict(load_saes(plan.saes))
    for condition in plan.conditions:
        EditHook(_bound(condition, saes)).attach(model)  # attaching checks; only entering installs
        for prompt in plan.prompts:
            placed(Edits(), condition.place, prompt)  # which needs a scene where the place is of one
    with run_folder(out, "experiment") as folder:
        context = _manifest(plan, ResultNames.of(folder, model, saes), folder)
        plan, choices = choose(plan, model, saes, out, context)
        rows = list(_rows(plan, saes))
        images = [(row, out / "images" / f"{row.key(context)}.png") for row in rows]
        warn_of_cut(model, (prompt.text for prompt in plan.prompts))
        with counted(), tqdm(total=len(rows), disable=not progress, desc="experiment", unit="image") as bar:
            _draw(plan, model, images, bar)
        figures = _measured(plan, images, out, model.device)
        write_report(plan, figures, out, choices)
    return figures


def _rows(plan: ExperimentPlan, saes: Mapping[str, SAE]) -> Iterator[Row]:
    """The unedited images first, then every condition's."""
    for condition in (None, *plan.conditions):
        bound = Edits() if condition is None else _bound(condition, saes)
        place = None if condition is None else condition.place
        for index, prompt in enumerate(plan.prompts):
            edits, mask = placed(bound, place, prompt)
            mask = mask or next((e.where for e in edits if e.where is not None and not e.where.own), None)
            for seed in plan.seeds:
                yield Row(condition, prompt, index, seed, edits, mask)


def _bound(condition: Condition, saes: Mapping[str, SAE]) -> Edits:
    """A condition's edits with their SAEs; of a control the random ones."""
    bound = bind(condition.edits, saes)
    return bound if condition.control is None else random_control(bound, condition.control)


def _manifest(plan: ExperimentPlan, names: ResultNames, folder: RunFolder) -> str:
    """Write `manifest.json` before anything else; returns the digest of what all rows share."""
    shared: dict[str, JSON] = {**names.context, "sampling": plan.sampling}
    context = key_of(shared, 64)
    # Rows are named by what decides them: a folder may hold those of several models and SAEs.
    folder.claim({}, {**names.identity, "fingerprint": names.fingerprint})
    (folder.path / "images").mkdir(parents=True, exist_ok=True)
    count = (len(plan.conditions) + 1) * len(plan.prompts) * len(plan.seeds)
    source = json.loads(json.dumps(plan.source, default=str))  # TOML has dates
    about: dict[str, JSON] = {"title": plan.title, "rows": count, "context": context}
    write_json(folder.path / MANIFEST, {**about, **shared, "plan": source})
    return context


def _draw(plan: ExperimentPlan, model: Model, rows: Rows, bar: tqdm) -> None:
    """Make the images that are missing, a batch at a time."""
    missing = [(row, file) for row, file in rows if not file.is_file()]
    bar.update(len(rows) - len(missing))
    for start in range(0, len(missing), plan.batch_size):
        batch = missing[start : start + plan.batch_size]
        images = model.generate(
            [row.prompt.text for row, _ in batch],
            seeds=[row.seed for row, _ in batch],
            edits=[row.edits if len(row.edits) else None for row, _ in batch],
            batch_size=plan.batch_size,
            **plan.sampling,
        )
        with unit():
            for (row, file), image in zip(batch, images, strict=True):
                about = {"prompt": row.prompt.text, "seed": row.seed, **row.edits.to_json()}
                save_png(image, file, {**about, "sampling": plan.sampling})
        bar.update(len(batch))


def _measured(plan: ExperimentPlan, rows: Rows, out: Path, device: torch.device) -> list[dict[str, JSON]]:
    """Figures of every edited row, from `rows/` where they are there."""
    of_pairs = [name for name in plan.metrics if name != DENSITY]
    metrics = [make_metric(name, plan.clip_model, device) for name in of_pairs]
    plain = {(row.prompt_index, row.seed): file for row, file in rows if row.condition is None}
    edited = [(row, plain[row.prompt_index, row.seed], file) for row, file in rows if row.condition]
    clip_model = plan.clip_model if "clip" in of_pairs else None
    kinds = key_of([[REVISIONS.get(name, name) for name in of_pairs], clip_model], 8)
    table = []
    for start in range(0, len(edited), 64):
        part = edited[start : start + 64]
        stored = {file: out / "rows" / f"{file.stem}-{kinds}.json" for *_, file in part}
        pairs = {each[-1]: _pair(*each) for each in part if not stored[each[-1]].is_file()}
        scores: dict[Path, Figures] = {file: {} for file in pairs}
        for metric in metrics if pairs else ():
            for file, figures in zip(pairs, metric(list(pairs.values())), strict=True):
                scores[file] |= figures
        for row, before, file in part:
            figures = cached(stored[file], partial(scores.__getitem__, file))
            if wrong := next((n for n, v in figures.items() if type(v) not in (int, float)), None):
                raise damaged(stored[file], wrong, figures[wrong])
            table.append({**_described(row, file, before, out), **figures})
    add_artifacts(table, out, plan.metrics, plan.clip_model, device)
    return table


def _pair(row: Row, before: Path, after: Path) -> ImagePair:
    with Image.open(before) as first, Image.open(after) as second:
        images = first.convert("RGB"), second.convert("RGB")
    mask = None if row.mask is None else row.mask.on(images[0].height, images[0].width)
    if mask is not None and mask.ndim > 2:
        mask = reduce(mask, "... y x -> y x", "max")
    assert row.condition is not None
    return ImagePair(*images, row.prompt.text, mask, row.condition.target)


def _described(row: Row, image: Path, unedited: Path, out: Path) -> dict[str, JSON]:
    condition = row.condition
    assert condition is not None
    return {
        "condition": condition.label,
        "edit": condition.name,
        "control": -1 if condition.control is None else condition.control,
        **{f"grid_{axis}": value for axis, value in condition.settings.items()},
        "prompt": row.prompt.text,
        "prompt_index": row.prompt_index,
        "seed": row.seed,
        "image": str(image.relative_to(out)),
        "unedited": str(unedited.relative_to(out)),
    }
