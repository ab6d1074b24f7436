"""SAEs, an atlas and calibrated brushes of a Shapes model: those that the package brings, made from nothing
but the weights.

    python -m unbox.recipes.bundled_features shapes-turbo FOLDER --device cuda --bundle unbox/explorer/bundled

`--seeds` trains the SAEs several times and keeps those that tell most values; what they tell is printed, and
kept in FOLDER/told.json. Stopped at any time, the same line goes on.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from activation_store import Store
from activation_store.files import write_json
from unbox.atlas import build
from unbox.capture import collect
from unbox.ground_truth.bench.bench_inputs import BlockRows, collect_captions
from unbox.ground_truth.bench.bench_settings import BenchSettings
from unbox.ground_truth.bench.probing import probe_saes
from unbox.ground_truth.bench.report import AUROC, telling
from unbox.ground_truth.factor_scores import Value, scenes_of
from unbox.models import Model, load
from unbox.recipes.factor_brushes import BRUSHES, STRENGTHS, calibrate_brushes, make_brushes
from unbox.run_folder import new_folder
from unbox.sae import Plan, load_saes, specs, train
from unbox.sae.model import SAE
from unbox.shapes import prompts
from unbox.site import DEFAULT_BLOCKS

#: Images whose updates are learned from, and held-out captions on which is judged what is told.
IMAGES, CAPTIONS = 2000, 800
#: How the SAEs are trained: as `examples/shapes_saes.toml` says, and why.
PLAN = Plan(
    tokens=600_000,
    seed=1,
    saes=(
        *specs(["down.2.1", "up.0.0", "up.0.1"], k=32, latents=384, variant="batchtopk", seed=1),
        *specs(["mid.0"], k=32, latents=384, seed=1),
    ),
)


def make_features(model: Model, folder: Path, seeds: Sequence[int] = (PLAN.seed,)) -> Path:
    """`saes` and `atlas` in `folder`, which is returned: collects, trains, builds; resumable."""
    if (folder / "atlas" / "atlas.json").is_file():
        return folder
    print(
        f"Making features of the bundled model in {folder}, once. Stop at any time; the next start goes on."
    )
    folder.mkdir(parents=True, exist_ok=True)
    batch = 64 if model.device.type == "cuda" else 16
    texts = prompts(IMAGES, seed=11, full=True)
    store = collect(model, texts, folder / "store", blocks=DEFAULT_BLOCKS, batch_size=batch)
    if not (folder / "saes").is_dir() or len(seeds) == 1:
        _train(model, store, folder, seeds)
    build(store, load_saes(folder / "saes"), folder / "atlas", model=model)
    return folder


def _train(model: Model, store: Store, folder: Path, seeds: Sequence[int]) -> None:
    """`saes` in `folder`; of several seeds those that tell most, by captions that judge nothing else."""
    device = model.device if model.device.type == "cuda" else None
    if len(seeds) == 1:
        train(store, folder / "saes", plan=_seeded(seeds[0]), device=device)
        return
    found: dict[int, tuple[int, float]] = {}
    for seed in seeds:
        train(store, place := folder / "seeds" / str(seed), plan=_seeded(seed), device=device)
        scores = told(model, load_saes(place), folder / "choosing", 1)
        found[seed] = sum(score >= AUROC for score in scores.values()), float(np.mean(list(scores.values())))
        print(f"seed {seed}: {found[seed][0]} of {len(scores)} values, AUROC {found[seed][1]:.3f}")
    best = max(seeds, key=lambda seed: found[seed])
    with new_folder(folder / "saes", "recipe") as target:
        shutil.copytree(folder / "seeds" / str(best), target.with_name("saes.part"), dirs_exist_ok=True)
        target.with_name("saes.part").rename(target)


def _seeded(seed: int) -> Plan:
    """The plan with another seed, of directions and of order."""
    return replace(PLAN, seed=seed, saes=tuple(replace(each, seed=seed) for each in PLAN.saes))


def told(model: Model, saes: Mapping[str, SAE], folder: Path, seed: int = 0) -> dict[Value, float]:
    """Value -> AUROC of the feature that tells it best, over the held-out captions of `bench shapes` (with
    their own seed), which are collected in `folder`; chosen on one half of them, scored on the other."""
    settings = BenchSettings(
        captions=CAPTIONS, seed=seed, batch_size=64 if model.device.type == "cuda" else 16
    )
    collect_captions(model, tuple(saes), settings, folder, True)
    store = Store.open(folder / "store")
    rows = probe_saes(saes, {block: BlockRows(store[block]) for block in saes}, scenes_of(store))
    return {value: by["sae"]["auroc"] for value, by in telling(rows).items()}


def bundle(folder: Path, place: Path) -> None:
    """SAEs, atlas and, where there are some, brushes and strengths of `folder` in `place`; what was there is
    no more."""
    for name in ("saes", "atlas", BRUSHES):
        shutil.rmtree(place / name, ignore_errors=True)
    for name in load_saes(folder / "saes"):
        shutil.copytree(folder / "saes" / name, place / "saes" / name)
    shutil.copytree(folder / "atlas", place / "atlas")
    if (folder / BRUSHES).is_dir():
        shutil.copytree(folder / BRUSHES, place / BRUSHES)
    (place / STRENGTHS).unlink(missing_ok=True)
    if (folder / STRENGTHS).is_file():
        shutil.copy(folder / STRENGTHS, place / STRENGTHS)


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="a model that draws the Shapes world")
    parser.add_argument("folder", type=Path, help="where everything is made")
    parser.add_argument("--device", help="where to compute: cuda or cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[PLAN.seed], help="of the SAEs' training")
    parser.add_argument(
        "--bundle",
        type=Path,
        help="also put all of it here, in place of what is there",
    )
    asked = parser.parse_args()
    # As a CPU loads it: what is brought is of the same model wherever it is made.
    model = load(asked.model, device=asked.device, dtype="float32")
    folder = make_features(model, asked.folder, asked.seeds)
    saes = load_saes(folder / "saes")
    scores = told(model, saes, folder / "captions")
    missed = [f"{' '.join(value)} {score:.3f}" for value, score in scores.items() if score < AUROC]
    print(f"{len(scores) - len(missed)} of {len(scores)} values are told; not {', '.join(missed) or 'one'}")
    write_json(folder / "told.json", {"=".join(value): score for value, score in scores.items()})
    if asked.bundle is not None:
        bundle(folder, asked.bundle)
    make_brushes(model, saes, folder)
    calibrate_brushes(model, folder)
    if asked.bundle is not None:  # again, with brushes and strengths: these take longest, and may be stopped
        bundle(folder, asked.bundle)


if __name__ == "__main__":
    main()
