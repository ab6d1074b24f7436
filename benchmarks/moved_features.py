"""What the features tell that a training moved, and how far SAEs carry over, of Shapes systems.

    python -m benchmarks.moved_features runs/steps runs/aligned --results benchmarks/results/diffing

Of each folder that `unbox diff --prompts shapes` left: RESULTS/NAME.json has, block by block, how much every
SAE explains of every system (FVU with its interval), how many features gained and lost activity beside a
random split, and which value of the world's factors each of the most changed ones tells best (AUROC over
captions, in the first system, on images that the ranking is not of).
"""

import argparse
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from activation_store import Store
from activation_store.files import write_json
from unbox.experiments.diff.activity import Changes
from unbox.experiments.diff.block_figures import measured_changes
from unbox.experiments.diff.diff_settings import DiffSettings
from unbox.experiments.diff.joint_rows import divided, rows_of
from unbox.ground_truth.planted_ranks import best_told, pooled_activity, said_values, telling_scores
from unbox.sae import load_saes
from unbox.text_files import read_json_object

#: Most changed features of a block and system that are told.
LISTED = 10
DIGITS = 4


def alike(one: Changes, other: Changes) -> dict[str, float]:
    """Whether two systems moved the same features: the correlation of their changes over all features, how
    many features are listed (q < .05) in both, and how many of these moved the same way.

    Noise of the first system is in both changes, which alone makes the correlation positive."""
    both = (one.q < 0.05) & (other.q < 0.05)
    return {
        "correlation": round(float(np.corrcoef(one.change, other.change)[0, 1]), DIGITS),
        "both": int(both.sum()),
        "same_way": int((both & (one.change * other.change > 0)).sum()),
    }


def moved(place: Path, settings: DiffSettings, given: Path | None = None) -> dict[str, Any]:
    """Of one comparison's folder, by the SAEs of all its systems or by those that it was given."""
    figures = read_json_object(place / "figures.json")
    stores = {name: Store.open(place / "stores" / name) for name in figures["systems"]}
    first = figures["first"]
    learn, held = divided(range(len(stores[first])), settings.held_out)
    said, saes = said_values(stores[first], learn), load_saes(given or place / "saes" / "joint")
    saes = {block: sae for block, sae in saes.items() if block in figures["blocks"]}
    blocks = {}
    for block, sae in saes.items():
        changes = measured_changes(sae, rows_of(stores, block, held), settings).changes
        activity = pooled_activity(sae, rows_of(stores, block, learn)[first], learn)
        scores = telling_scores(activity, said)
        told = {}
        for name, each in changes.items():
            top = each.order[:LISTED].tolist()
            told[name] = [
                {
                    "feature": f"{block}/{i}",
                    "tells": " ".join(value),
                    "auroc": round(score, DIGITS),
                    "t": round(float(each.t[i]), 2),
                    "change": round(float(each.change[i]), DIGITS),
                    "activity": round(float(each.first[i]), DIGITS),
                    "p_family": round(float(each.p_family[i]), DIGITS),
                }
                for i, (value, score) in zip(top, best_told(scores, top), strict=True)
            ]
        of = figures["blocks"][block]
        pairs = {f"{one}, {two}": alike(changes[one], changes[two]) for one, two in combinations(changes, 2)}
        blocks[block] = {
            "told": told, "alike": pairs, "changes": of["changes"], "explained": of["explained"],
        }  # fmt: skip
    about = {name: figures[name] for name in ("systems", "first", "images", "held_out")}
    return {**about, "latents": int(np.median([sae.latents for sae in saes.values()])), "blocks": blocks}


def lines(found: dict[str, Any]) -> list[str]:
    """The comparison as Markdown: what SAEs explain, and what changed."""
    systems = list(found["systems"])
    made = ["| block | SAE of | " + " | ".join(systems) + " |", "| --- | --- |" + " --- |" * len(systems)]
    for block, of in found["blocks"].items():
        for name, each in of["explained"].items():
            cells = [f"{each[s]['fvu']:.3f} [{each[s]['low']:.3f}, {each[s]['high']:.3f}]" for s in systems]
            title = {"joint": "all", "given": "given"}.get(name, name.removeprefix("alone-"))
            made.append(f"| {block} | {title} | {' | '.join(cells)} |")
    made += [
        "",
        "| block | system | gained | lost | in a split | largest t | in a split | most changed tell |",
    ]
    made.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for block, of in found["blocks"].items():
        split = of["changes"]["random split"]
        for name in systems[1:]:
            counts = of["changes"][name]
            told = ", ".join(
                f"{row['tells']} ({row['auroc']:.2f}, t {row['t']:+.1f})" for row in of["told"][name][:3]
            )
            made.append(
                f"| {block} | {name} | {counts['gained']} | {counts['lost']} | {split['listed']:.1f} | "
                f"{counts['largest_t']:.1f} | {split['largest_t']:.1f} | {told} |"
            )
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--saes", type=Path, help="those that the comparison was given, if it was")
    parser.add_argument("--held-out", type=float, default=0.25, help="as the comparison had it")
    given = parser.parse_args()
    given.results.mkdir(parents=True, exist_ok=True)
    for place in given.folders:
        found = moved(place, DiffSettings(held_out=given.held_out), given.saes)
        write_json(given.results / f"{place.name}.json", found)
        print(f"## {place.name}", *lines(found), sep="\n")
