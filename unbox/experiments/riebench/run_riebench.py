"""Running RIEBench: every method on every example, what is done found again by what decides it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

from activation_store.files import digest, write_json, write_text
from unbox.capture import record
from unbox.edits.controls import CONTROL_RULE
from unbox.errors import UnboxError
from unbox.experiments.artifact_columns import DENSITY, add_artifacts
from unbox.experiments.critics import Metric
from unbox.experiments.metrics import REVISIONS, make_metric
from unbox.experiments.result_names import MANIFEST, ResultNames
from unbox.experiments.riebench.examples import EditExample
from unbox.experiments.riebench.interventions import PairedRuns
from unbox.experiments.riebench.masks import ImageMask, attention_mask, file_mask, mask_file, on_grid
from unbox.experiments.riebench.methods import METHOD_RULE, Method, methods
from unbox.experiments.riebench.metric import riebench_metric
from unbox.experiments.riebench.neuron_records import neuron_layers, recorded_neurons
from unbox.experiments.riebench.report import markdown, summary
from unbox.experiments.riebench.riebench_settings import FORMER, RiebenchSettings
from unbox.experiments.tables import write_table
from unbox.former_names import as_written
from unbox.json_types import JSON
from unbox.models import Model
from unbox.models.hooks import Attachable
from unbox.models.png_record import save_png
from unbox.models.prompt_length import counted, warn_of_cut
from unbox.result_cache import ResultCache, key_of
from unbox.run_folder import run_folder
from unbox.sae import SAE


def bench_riebench(
    model: Model,
    saes: Mapping[str, SAE],
    examples: Sequence[EditExample],
    out: str | Path,
    settings: RiebenchSettings | None = None,
    progress: bool = True,
) -> list[dict[str, JSON]]:
    """Run what is missing and write rows, a summary and images into `out`; returns the rows.

    A row is an example under a method, with each metric to the original and to the edited prompt's image, or
    an `error`.
    """
    settings, out = settings or RiebenchSettings(), Path(out)
    if not saes:
        raise UnboxError("there are no SAEs to test; train some with `unbox train`")
    saes = {sae.block: sae for sae in saes.values()}
    of_pairs = [name for name in settings.metrics if name != DENSITY]
    metrics = [make_metric(name, settings.clip_model, model.device) for name in of_pairs]
    chosen = as_written(asdict(settings), FORMER) | {"rules": METHOD_RULE}
    with run_folder(out, "bench riebench") as folder:
        names = ResultNames.of(folder, model, saes)
        before = {**names.before, "settings": names.manifest.get("settings", chosen)} if names.before else {}
        # Images are named by example and method alone, so they may not be those of another.
        own: dict[str, JSON] = {f"example {e.id}": _example_key(e, settings) for e in examples}
        folder.claim(
            {**names.identity, "settings": chosen, **own},
            {"examples": len(examples), "fingerprint": names.fingerprint},
            before,
        )
        context: dict[str, JSON] = {**names.context, "settings": chosen}
        write_json(out / MANIFEST, {**context, "examples": len(examples)})
        measured: dict[str, JSON] = {"metrics": [REVISIONS.get(name, name) for name in of_pairs]}
        cache = ResultCache(out / "kept", {**context, "settings": chosen | measured})
        rows = _rows(model, saes, examples, (out, settings, metrics), cache, progress)
        add_artifact_figures(rows, out, settings, model)
        write_table(out / "rows.csv", rows)
        write_table(out / "summary.csv", summary(rows))
        write_text(out / "summary.md", markdown(rows, settings))
    return rows


def _rows(
    model: Model,
    saes: Mapping[str, SAE],
    examples: Sequence[EditExample],
    given: tuple[Path, RiebenchSettings, Sequence[Metric]],
    cache: ResultCache,
    progress: bool,
) -> list[dict[str, JSON]]:
    """The rows of every example, from the cache where they are there. `given`: folder, settings, metrics."""
    settings = given[1]
    rows: list[dict[str, JSON]] = []
    every = methods(saes, settings)
    random = {name: made for name, made in every.items() if name.startswith("random")}
    others = {name: made for name, made in every.items() if name not in random}
    warn_of_cut(model, (text for example in examples for text in (example.original, example.edited)))
    for example in tqdm(examples, desc="riebench", disable=not progress):
        key: list[JSON] = [asdict(example), _mask_digests(example, settings)]
        made = cache.get(key, _made, model, saes, others, example, *given)
        if random:
            made = [*made, *cache.get([*key, CONTROL_RULE], _made, model, saes, random, example, *given)]
        named = {row["method"]: row for row in made}
        rows += [named[name] for name in ("", *every) if name in named]
    return rows


def add_artifact_figures(
    rows: Sequence[dict[str, JSON]], out: Path, settings: RiebenchSettings, model: Model
) -> None:
    """Which edited pictures are artifacts among the original ones of all examples, as the metrics ask for."""
    good = [row for row in rows if "error" not in row]
    for row in good:
        folder = image_folder(Path(), str(row["id"]))
        row["image"] = str(folder / f"{_file_name(str(row['method']))}.png")
        row["unedited"] = str(folder / "original.png")
    add_artifacts(good, out, settings.metrics, settings.clip_model, model.device)
    for row in good:
        del row["image"], row["unedited"]


def image_folder(out: Path, example: str) -> Path:
    """Where an example's images are."""
    return out / "images" / re.sub(r"[^\w.-]", "_", example)


def _file_name(method: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "_", method)


def _example_key(example: EditExample, settings: RiebenchSettings) -> str:
    return key_of([asdict(example), _mask_digests(example, settings)], 12)


def _mask_digests(example: EditExample, settings: RiebenchSettings) -> list[str]:
    if settings.masks is None:
        return []
    paths = [mask_file(settings.masks, example.id, side) for side in ("original", "editing")]
    return [digest(path) if path.is_file() else "" for path in paths]


def _made(
    model: Model,
    saes: Mapping[str, SAE],
    some: Mapping[str, Method],
    example: EditExample,
    out: Path,
    settings: RiebenchSettings,
    metrics: Sequence[Metric],
) -> list[dict[str, JSON]]:
    """Some methods on one example, or one row with the error."""
    about: dict[str, JSON] = {"id": example.id, "kind": example.kind}
    prompts = {"original_prompt": example.original, "editing_prompt": example.edited, "seed": settings.seed}
    folder = image_folder(out, example.id)
    neurons = any(name.startswith("neurons") for name in some)
    try:
        runs, original, target = recorded_runs(model, tuple(saes), example, settings, neurons)
        for name, image in (("original", original), ("edited_prompt", target)):
            save_png(image, folder / f"{name}.png", prompts)
        images = [_drawn(model, example.original, settings, make(runs)) for make in some.values()]
    except UnboxError as error:
        return [{**about, "method": "", "error": str(error)}]
    for method, image in zip(some, images, strict=True):
        save_png(image, folder / f"{_file_name(method)}.png", {**prompts, "method": method})
    figures = riebench_metric(metrics, original, target, images, example.edited)
    return [{**about, "method": method, **each} for method, each in zip(some, figures, strict=True)]


def _drawn(model: Model, text: str, by: RiebenchSettings, edits: Attachable | None = None) -> Image.Image:
    with counted():
        (image,) = model.generate(
            text, seed=by.seed, steps=by.steps, guidance=by.guidance, height=by.height, width=by.width,
            edits=edits,
        )  # fmt: skip
    return image


def recorded_runs(
    model: Model, blocks: tuple[str, ...], example: EditExample, settings: RiebenchSettings, neurons: bool
) -> tuple[PairedRuns, Image.Image, Image.Image]:
    """Both runs of an example with its masks, the original image and the edited prompt's."""
    texts = (example.original, example.edited)
    wanted = ("update",) if settings.masks else ("update", "cross")
    with record(model, blocks, wanted) as tape, recorded_neurons(model, blocks if neurons else ()) as units:
        original, target = (_drawn(model, text, settings) for text in texts)
    updates = {block: tape.read(block, "update", "cond").float().numpy() for block in blocks}
    if settings.masks:
        sides = ("original", "editing")
        masks: list[ImageMask] = [file_mask(mask_file(settings.masks, example.id, side)) for side in sides]
    else:
        tokenizer, words = model.pipeline.tokenizer, (example.original_words, example.edited_words)
        maps = [tape.read(block, "cross", "cond") for block in blocks]
        masks = [attention_mask(tokenizer, [m[i] for m in maps], texts[i], words[i]) for i in (0, 1)]
    deleting, adding = example.kind == "delete object", example.kind == "add object"
    if example.kind == "change style":
        masks = [None, None]
    grids = {block: update.shape[2:4] for block, update in updates.items()}
    reduce_mask = partial(on_grid, widened=settings.masks is not None)
    edited, read = (
        {b: reduce_mask(mask, *grid) for b, grid in grids.items()}
        for mask in (masks[adding], masks[1 - deleting])
    )
    if deleting:
        read = {block: ~mask for block, mask in read.items()}
        if empty := next((block for block, mask in read.items() if not mask.any()), None):
            raise UnboxError(
                f"the mask is everywhere on the grid of {empty}: nothing is left to fill it with"
            )
    first, last = 0, 1 - deleting  # the images recorded: a deletion's donor is the original itself
    runs = PairedRuns(
        {block: update[last] for block, update in updates.items()},
        {block: update[first] for block, update in updates.items()},
        read, edited, deleting, tape.steps, units.get(last), units.get(first),
        neuron_layers(model, blocks) if neurons else None,
    )  # fmt: skip
    return runs, original, target
