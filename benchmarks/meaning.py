"""What dictionaries tell, on captions that a run of `unbox bench shapes` has collected; no picture is drawn.

python benchmarks/meaning.py runs/bench_shapes --out runs/told saes/seed-0 saes/seed-1 [...]

Writes a row for the leaderboard of each folder of SAEs: MCC and the share of values that one feature tells,
chosen on one half of the captions and scored on the other, as the run itself does it.
"""

import argparse
from pathlib import Path

from activation_store import Store
from activation_store.files import write_json
from unbox import load
from unbox.ground_truth.bench.bench_inputs import BlockRows
from unbox.ground_truth.bench.bench_rows import BenchResults
from unbox.ground_truth.bench.bench_settings import BenchSettings
from unbox.ground_truth.bench.dictionary_record import by_block, scored
from unbox.ground_truth.bench.factor_match import match_candidates, match_score
from unbox.ground_truth.bench.probing import probe_saes
from unbox.ground_truth.bench.report import AUROC, telling
from unbox.ground_truth.factor_scores import scenes_of
from unbox.models import Model
from unbox.sae import load_saes


def main() -> None:
    """Score each folder, and say what it does not tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="folder that `unbox bench shapes` has collected into")
    parser.add_argument("saes", nargs="+", type=Path, help="folders of SAEs")
    parser.add_argument("--out", type=Path, required=True, help="a folder for each folder of SAEs goes here")
    asked = parser.parse_args()
    store, model = Store.open(asked.run / "store"), load("shapes-turbo")
    for number, folder in enumerate(asked.saes):
        place = asked.out / f"{number:02}"
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / "score.json", record(folder, store, model))


def record(folder: Path, store: Store, model: Model) -> dict:
    """The row of one folder of SAEs."""
    saes, scenes = by_block(load_saes(folder)), scenes_of(store)
    updates = {block: BlockRows(store[block]) for block in saes}
    rows = probe_saes(saes, updates, scenes)
    matched = [match_candidates(sae, updates[block], scenes) for block, sae in saes.items()]
    best = {value: by["sae"]["auroc"] for value, by in telling(rows).items()}
    missed = [f"{' '.join(value)} {score:.3f}" for value, score in best.items() if score < AUROC]
    print(f"{folder}: {len(best) - len(missed)} of {len(best)} values told; not {', '.join(missed) or 'one'}")
    every = {"=".join(value): 1.0 for value in best}
    found: BenchResults = {"meaning": rows, "causation": [], "reliable": every}
    found["mcc"] = {"sae": match_score(matched)}
    row = scored(found, model, saes, BenchSettings(captions=len(store)))
    row["scores"] = {name: score for name, score in row["scores"].items() if name in ("mcc", "telling")}
    return row | {"command": "python benchmarks/meaning.py RUN --out OUT SAES"}


if __name__ == "__main__":
    main()
