"""A comparison of systems, from their names or stores to a report; every part that is done is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from activation_store import Rows, Store
from activation_store.files import write_json
from unbox.errors import UnboxError
from unbox.experiments.diff.block_figures import (
    explained,
    feature_rows,
    measured_changes,
    shown_features,
    summary_of,
)
from unbox.experiments.diff.compared_stores import DrawnSystems, GivenStores
from unbox.experiments.diff.crosscoder_figures import SOURCES, crosscoder_figures
from unbox.experiments.diff.diff_settings import FREE, DiffSettings
from unbox.experiments.diff.joint_rows import divided, joint_rows, rows_of
from unbox.experiments.diff.report import write_report
from unbox.experiments.tables import write_table
from unbox.json_types import JSON
from unbox.model_mismatch import recorded_run
from unbox.models.devices import find_device
from unbox.result_cache import cached
from unbox.run_folder import RunFolder, refuse_others, run_folder
from unbox.sae import SAE, Crosscoder, Spec, side_by_side, specs, train

#: What the SAEs of all systems are called, and given ones.
JOINT, GIVEN = "joint", "given"


@dataclass(frozen=True)
class DiffRun:
    """What is compared, and how."""

    source: DrawnSystems | GivenStores
    """Where the stores come from; the others are compared with the first."""
    settings: DiffSettings
    saes: Mapping[str, SAE] | None = None
    """Block -> an SAE to compare by; None: one is trained on the rows of all systems."""
    device: str | None = None
    """Where SAEs are trained and used; None: the first accelerator."""
    progress: bool = True

    @property
    def first(self) -> str:
        """The system that the others are compared with."""
        return self.source.titles[0]


def run_diff(run: DiffRun, out: str | Path) -> dict[str, Any]:
    """Record the same prompts and seeds in every system, fit SAEs to all of them, compare, write a report.

    Returns what `figures.json` holds. Raises UnboxError, before anything is drawn, where `out` holds another
    comparison: of other systems, weights, prompts, stores, seeds, settings or SAEs.
    """
    if run.saes is not None and (lacking := [b for b in run.settings.blocks if b not in run.saes]):
        raise UnboxError(f"there is no SAE of {lacking[0]}; there are SAEs of {', '.join(run.saes)}")
    with run_folder(out, "diff") as folder:
        parts, own = _parts(run), run.source.parts(run.settings)
        refuse_others(folder.path, folder.command, folder.recorded(), {**parts, **own})
        stores = run.source.stores(folder, parts, run.settings, run.progress)
        folder.claim({**parts, **own})
        learn, held = divided(_common(stores), run.settings.held_out)
        saes = _saes(run, folder, stores, learn)
        identities = {f"{name} {b}": sae.identity for name, some in saes.items() for b, sae in some.items()}
        folder.claim({"SAEs": identities})
        crossed = _crosscoders(run, folder, stores, learn) if run.settings.crosscoders else {}
        figures = _figures(run, folder.path, stores, saes, crossed, held)
        write_report(folder.path / "report.html", figures, stores)
    return figures


def _parts(run: DiffRun) -> dict[str, JSON]:
    """What must be the same in a run that goes on, besides what is of its systems: by the options' names."""
    settings = run.settings
    every = {each.name: getattr(settings, each.name) for each in fields(settings) if each.name not in FREE}
    saes = None if run.saes is None else {block: run.saes[block].identity for block in settings.blocks}
    return {**{n: list(v) if isinstance(v, tuple) else v for n, v in every.items()}, "saes": saes}


def _common(stores: Mapping[str, Store]) -> list[int]:
    """Numbers of the images that every system has drawn; those marked absent in one are of none."""
    absent = {i for store in stores.values() for i in store.absent}
    return [i for i in range(min(map(len, stores.values()))) if i not in absent]


def _saes(
    run: DiffRun, folder: RunFolder, stores: Mapping[str, Store], learn: Sequence[int]
) -> dict[str, dict[str, SAE]]:
    """Set -> block -> SAE: the given ones or those of all systems, and asked for those of each alone."""
    settings = run.settings

    def fitted(name: str, only: Mapping[str, Store]) -> dict[str, SAE]:
        rows = {
            block: joint_rows(rows_of(only, block, learn, settings.keep_steps)) for block in settings.blocks
        }
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
    """Block -> other system -> the crosscoder of the first system and it."""
    settings, found = run.settings, dict[str, dict[str, Crosscoder]]()
    spec = Spec(k=settings.k, latents=settings.latents, variant="batchtopk", seed=settings.seed)
    for block in settings.blocks:
        rows, found[block] = rows_of(stores, block, learn, settings.keep_steps), {}
        for name in [name for name in rows if name != run.first]:
            both = dict(zip(SOURCES, (rows[run.first], rows[name]), strict=True))
            place = folder.path / "crosscoders" / name / block
            options: dict[str, Any] = {"tokens": settings.tokens, "batch_size": settings.rows}
            options |= {"seed": settings.seed, "device": run.device, "progress": run.progress}
            (sae,) = train(side_by_side(both), place, [spec], held_out=0.0, **options).values()
            found[block][name] = Crosscoder(sae)
            folder.claim({f"crosscoder {name} {block}": sae.identity})
    return found


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
        rows = rows_of(stores, block, held, run.settings.keep_steps)
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
    place = find_device(run.device)
    sets = {name: sae.to(place) for name, sae in sets.items()}
    changes = measured_changes(next(iter(sets.values())), rows, run.settings)
    write_table(out / "blocks" / f"{block}-features.csv", feature_rows(block, run.first, changes))
    return {
        "explained": {name: explained(sae, rows) for name, sae in sets.items()},
        "crosscoders": {
            name: crosscoder_figures(each.to(place), rows[run.first], rows[name], run.settings.shown)
            for name, each in crossed.items()
        },
        "changes": summary_of(changes),
        "features": shown_features(changes, run.first, run.settings.shown),
    }


def _told(store: Store) -> dict[str, JSON]:
    """How a store's images were drawn, as far as it says."""
    run = recorded_run(store.provenance)
    model = run.get("model", {})
    about: dict[str, JSON] = {"system": model.get("system", {}).get("name", "")}
    return {**about, "steps": run.get("steps"), "guidance": run.get("guidance"), "images": len(store)}
