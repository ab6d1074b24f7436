"""A comparison of systems, from their names to a report; every part that is done is kept."""

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from activation_store import Rows, Store
from activation_store.files import write_json
from unbox.capture import collect
from unbox.capture.collect import length, numbered
from unbox.capture.collect_settings import CollectSettings, schema_of
from unbox.capture.prompt_list import PromptList
from unbox.errors import UnboxError
from unbox.experiments.diff.block_figures import (
    explained,
    feature_rows,
    measured_changes,
    shown_features,
    summary_of,
)
from unbox.experiments.diff.crosscoder_figures import SOURCES, crosscoder_figures
from unbox.experiments.diff.diff_settings import FREE, ComparedSystem, DiffSettings
from unbox.experiments.diff.joint_rows import divided, joint_rows, rows_of
from unbox.experiments.diff.report import write_report
from unbox.experiments.tables import write_table
from unbox.json_types import JSON
from unbox.model_identity import model_identity
from unbox.models import Model
from unbox.prompt import Prompt
from unbox.result_cache import cached
from unbox.run_folder import RunFolder, named, refuse_others, run_folder
from unbox.sae import SAE, Crosscoder, Spec, side_by_side, specs, train

#: Loads one of the systems.
Load = Callable[[ComparedSystem], Model]
#: What the SAEs of all systems are called, and given ones.
JOINT, GIVEN = "joint", "given"


@dataclass(frozen=True)
class DiffRun:
    """What a comparison needs besides its settings."""

    systems: Sequence[ComparedSystem]
    load: Load
    prompts: Sequence[str | Prompt]
    settings: DiffSettings
    saes: Mapping[str, SAE] | None = None
    """Block -> an SAE to compare by; None: one is trained on the rows of all systems."""
    device: str | None = None
    """Where SAEs are trained; None: the first accelerator."""
    progress: bool = True

    @property
    def first(self) -> str:
        """The system that the others are compared with."""
        return self.systems[0].title


def run_diff(run: DiffRun, out: str | Path) -> dict[str, Any]:
    """Record the same prompts and seeds in every system, fit SAEs to all of them, compare, write a report.

    Returns what `figures.json` holds. Raises UnboxError, before anything is drawn, where `out` holds another
    comparison: of other systems, weights, prompts, seeds, settings or SAEs.
    """
    if run.saes is not None and (lacking := [b for b in run.settings.blocks if b not in run.saes]):
        raise UnboxError(f"there is no SAE of {lacking[0]}; there are SAEs of {', '.join(run.saes)}")
    with run_folder(out, "diff") as folder:
        parts = _parts(run)
        refuse_others(folder.path, folder.command, folder.recorded(), parts)
        stores = dict[str, Store]()
        for system in run.systems:
            stores[system.title] = _collected(run, folder, system, parts, stores)
        folder.claim(parts)
        learn, held = divided(_common(stores), run.settings.held_out)
        saes = _saes(run, folder, stores, learn)
        identities = {f"{name} {b}": sae.identity for name, some in saes.items() for b, sae in some.items()}
        folder.claim({"SAEs": identities})
        crossed = _crosscoders(run, folder, stores, learn) if run.settings.crosscoders else {}
        figures = _figures(run, folder.path, stores, saes, crossed, held)
        write_report(folder.path / "report.html", figures, stores)
    return figures


def _parts(run: DiffRun) -> dict[str, JSON]:
    """What must be the same in a run that goes on, but for the weights: by the names of the options."""
    settings, listed = (
        run.settings,
        PromptList(numbered(run.prompts, None, collect_settings(run, run.systems[0])), run.settings.seed),
    )
    usual = vars(ComparedSystem(model="x"))
    systems: dict[str, JSON] = {}
    for system in run.systems:
        own = {k: v for k, v in vars(system).items() if v != usual[k] and k not in ("name", "lora", "unet")}
        systems[system.title] = {key: str(value) for key, value in own.items()}
    every = {each.name: getattr(settings, each.name) for each in fields(settings) if each.name not in FREE}
    return {
        "models": list(systems),
        **{f"system {title}": value for title, value in systems.items()},
        "prompts": named(f"{len(listed):,} prompts", listed.digest),
        **{name: list(value) if isinstance(value, tuple) else value for name, value in every.items()},
        "saes": None if run.saes is None else {block: run.saes[block].identity for block in settings.blocks},
    }


def collect_settings(run: DiffRun, system: ComparedSystem) -> CollectSettings:
    """How a system's images are drawn and recorded: those with the caption alone."""
    names = {each.name for each in fields(CollectSettings)} & {each.name for each in fields(DiffSettings)}
    given = {name: getattr(run.settings, name) for name in names}
    given |= {n: v for n in ("steps", "guidance") if (v := getattr(system, n)) is not None}
    return CollectSettings(**given, branches=("cond",))


def _collected(
    run: DiffRun,
    folder: RunFolder,
    system: ComparedSystem,
    parts: Mapping[str, JSON],
    before: Mapping[str, Store],
) -> Store:
    """A system's store; the model is given back before the next one is loaded. What the folder is of is
    recorded once the model is there: `models` only when all are, so that a mistyped one can be typed again.
    `before`: the stores of the systems before.
    """
    model, title, settings = run.load(system), system.title, collect_settings(run, system)
    if run.settings.crosscoders:
        counts = {name: len(store.schema.steps) for name, store in before.items()}
        _check_steps({**counts, title: len(schema_of(model, settings).steps)})
    known = {
        name: value for name, value in parts.items() if name != "models" and not name.startswith("system ")
    }
    own = {f"system {title}": parts[f"system {title}"]}
    own |= {f"model {title}": named(model.system.name, model_identity(model.fingerprint))}
    folder.claim({**known, **own})
    place = folder.path / "stores" / title
    store = collect(model, run.prompts, place, **vars(settings), progress=run.progress)
    del model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return store


def _common(stores: Mapping[str, Store]) -> list[int]:
    """Numbers of the images that every system has drawn; those marked absent in one are of none."""
    return [
        i for i in range(min(map(len, stores.values()))) if not any(i in s.absent for s in stores.values())
    ]


def _saes(
    run: DiffRun, folder: RunFolder, stores: Mapping[str, Store], learn: Sequence[int]
) -> dict[str, dict[str, SAE]]:
    """Set -> block -> SAE: the given ones or those of all systems, and asked for those of each alone."""
    settings = run.settings

    def fitted(name: str, only: Mapping[str, Store]) -> dict[str, SAE]:
        rows = {block: joint_rows(rows_of(only, block, learn)) for block in settings.blocks}
        return train(
            rows,
            folder.path / "saes" / name,
            specs(settings.blocks, k=settings.k, latents=settings.latents, seed=settings.seed),
            tokens=settings.tokens,
            batch_size=settings.rows,
            seed=settings.seed,
            held_out=0.0,
            device=run.device,
            progress=run.progress,
        )

    found = {JOINT: fitted(JOINT, stores)} if run.saes is None else {GIVEN: dict(run.saes)}
    for name in stores if settings.alone else ():
        found[name] = fitted(f"alone-{name}", {name: stores[name]})
    return found


def _crosscoders(
    run: DiffRun, folder: RunFolder, stores: Mapping[str, Store], learn: Sequence[int]
) -> dict[str, dict[str, Crosscoder]]:
    """Block -> other system -> the crosscoder of the first system and it.

    Raises UnboxError where they keep more steps in one than in the other: rows belong together one by one."""
    settings, found = run.settings, dict[str, dict[str, Crosscoder]]()
    spec = Spec(k=settings.k, latents=settings.latents, variant="batchtopk", seed=settings.seed)
    for block in settings.blocks:
        rows, found[block] = rows_of(stores, block, learn), {}
        for name in [name for name in rows if name != run.first]:
            both = dict(zip(SOURCES, (rows[run.first], rows[name]), strict=True))
            place = folder.path / "crosscoders" / name / block
            options: dict[str, Any] = {"tokens": settings.tokens, "batch_size": settings.rows}
            options |= {"seed": settings.seed, "device": run.device, "progress": run.progress}
            (sae,) = train(side_by_side(both), place, [spec], held_out=0.0, **options).values()
            found[block][name] = Crosscoder(sae)
            folder.claim({f"crosscoder {name} {block}": sae.identity})
    return found


def _check_steps(counts: Mapping[str, int]) -> None:
    """Raise UnboxError where systems keep different numbers of steps."""
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UnboxError(
            f"a crosscoder takes as many steps of each system; there are of {told}: choose some of all "
            "with --keep-steps, or give the systems as many steps"
        )


def _figures(
    run: DiffRun,
    out: Path,
    stores: Mapping[str, Store],
    saes: Mapping[str, Mapping[str, SAE]],
    crossed: Mapping[str, Mapping[str, Crosscoder]],
    held: Sequence[int],
) -> dict[str, Any]:
    """Figures of every block, each kept in a file when it is done; all together in `figures.json`."""
    blocks = {}
    for block in run.settings.blocks:
        rows = rows_of(stores, block, held)
        sets = {name: some[block] for name, some in saes.items()}
        file = out / "blocks" / f"{block}.json"
        blocks[block] = cached(file, partial(_of_block, run, out, block, rows, sets, crossed.get(block, {})))
    figures: dict[str, Any] = {
        "systems": {name: _told(store) for name, store in stores.items()},
        "first": run.first,
        "images": len(_common(stores)),
        "held_out": len(held),
        "shown": run.settings.shown,
        "blocks": blocks,
    }
    write_json(out / "figures.json", figures)
    return figures


def _of_block(
    run: DiffRun,
    out: Path,
    block: str,
    rows: Mapping[str, Rows],
    sets: Mapping[str, SAE],
    crossed: Mapping[str, Crosscoder],
) -> dict[str, JSON]:
    compared = next(iter(sets.values()))
    changes = measured_changes(compared, rows, list(next(iter(rows.values())).samples), run.settings)
    write_table(out / "blocks" / f"{block}-features.csv", feature_rows(block, run.first, changes))
    return {
        "explained": {name: explained(sae, rows) for name, sae in sets.items()},
        "crosscoders": {
            name: crosscoder_figures(each, rows[run.first], rows[name], run.settings.shown)
            for name, each in crossed.items()
        },
        "changes": summary_of(changes),
        "features": shown_features(changes, run.first, run.settings.shown),
    }


def _told(store: Store) -> dict[str, JSON]:
    """How a store's images were drawn."""
    run = store.provenance
    about = run["model"]["system"]["name"]
    return {"system": about, "steps": run["steps"], "guidance": run["guidance"], "images": len(store)}


def listed_prompts(prompts: Iterable[Prompt], limit: int | None) -> list[Prompt]:
    """The prompts of a run. Raises UnboxError where they have no end and no limit."""
    if length(prompts, limit) is None:
        raise UnboxError("say how many prompts there are to be with --limit: these have no end")
    return list(islice(prompts, limit))
