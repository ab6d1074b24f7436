"""A run of `unbox bench shapes` in one line of figures, and what can be said of several runs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from unbox.errors import UnboxError
from unbox.experiments.tables import markdown_table
from unbox.ground_truth.bench.bench_rows import BenchResults
from unbox.ground_truth.bench.report import verdict
from unbox.json_types import JSON
from unbox.text_files import read_json_object

#: What is scored, and what it is called in tables; of the artifacts less is better.
SCORES = {
    "mcc": "MCC",
    "telling": "told (AUROC >= .95)",
    "flips": "turned on (>= .80 at <= .10)",
    "success": "success",
    "collateral": "collateral",
    "artifacts": "artifacts",
}

#: Of these a smaller figure is better.
LESS_IS_BETTER = ("collateral", "artifacts")


def score(results: BenchResults) -> dict[str, float]:
    """The SAE's figures: shares of reliably drawn values that are told and turned on, mean success,
    collateral and artifacts of its edits, and MCC over all blocks."""
    found = verdict(results)
    means = found["success"].get("sae", {})
    scores = {"telling": found["telling"], "flips": found["flips"], "mcc": results.get("mcc", {}).get("sae")}
    scores |= {name: means.get(name) for name in ("success", "collateral", "artifacts")}
    return {name: float(scores[name]) for name in SCORES if scores[name] is not None}


@dataclass(frozen=True)
class ScoredRun:
    """One row of the leaderboard."""

    label: str
    """Of the dictionary without its seed and its length of training: runs of one label are compared."""
    scores: Mapping[str, float]
    seed: int | None
    """Of the SAE's training."""
    tokens: int | None
    """Rows that it was trained on."""
    about: Mapping[str, str]
    """command, commit, date (of the file)."""

    @classmethod
    def read(cls, folder: Path) -> "ScoredRun":
        """Of a finished run's folder. Raises UnboxError where it has no `score.json`."""
        file = folder / "score.json"
        if not file.is_file():
            raise UnboxError(f"{folder} has no score.json: run `unbox bench shapes` into it to its end")
        found: dict[str, Any] = read_json_object(file)
        about = {name: str(found.get(name, "")) for name in ("command", "commit")}
        about["date"] = datetime.fromtimestamp(file.stat().st_mtime, UTC).date().isoformat()
        return cls(str(found["label"]), found["scores"], found.get("seed"), found.get("tokens"), about)


def reseed_noise(runs: Sequence[ScoredRun]) -> dict[str, float]:
    """Standard deviation of each score over trainings that differ in their seed alone, pooled over labels and
    lengths of training; nothing where no two such runs are there."""
    groups = defaultdict[tuple[str, int | None], list[ScoredRun]](list)
    for run in runs:
        groups[run.label, run.tokens].append(run)
    found = {}
    for name in SCORES:
        parts = [[r.scores[name] for r in group if name in r.scores] for group in groups.values()]
        parts = [part for part in parts if len(part) > 1]
        if parts:
            squares = sum(float(((np.array(part) - np.mean(part)) ** 2).sum()) for part in parts)
            found[name] = (squares / sum(len(part) - 1 for part in parts)) ** 0.5
    return found


def discriminability(runs: Sequence[ScoredRun]) -> dict[str, float]:
    """Of pairs of checkpoints of one training (one label and seed), the share that a score puts in the order
    of their training, the longer trained one better; ties count half. Chance is 0.5."""
    right = defaultdict[str, list[float]](list)
    for first, second in combinations(runs, 2):
        same = first.label == second.label and first.seed == second.seed
        if not same or first.tokens is None or second.tokens is None or first.tokens == second.tokens:
            continue
        less, more = sorted((first, second), key=lambda run: run.tokens or 0)
        for name in SCORES:
            if name in less.scores and name in more.scores:
                gain = more.scores[name] - less.scores[name]
                gain = -gain if name in LESS_IS_BETTER else gain
                right[name].append(0.5 if gain == 0 else float(gain > 0))
    return {name: float(np.mean(pairs)) for name, pairs in right.items()}


def leaderboard(runs: Sequence[ScoredRun]) -> str:
    """Markdown: a row for each run, the best MCC first; reseed noise and discriminability below."""
    ordered = sorted(runs, key=lambda run: -run.scores.get("mcc", -1.0))
    head = ["dictionary", *SCORES.values(), "SAE's seed", "rows", "date", "commit", "command"]
    lines = []
    for run in ordered:
        about = run.about["date"], run.about["commit"][:12], f"`{run.about['command']}`"
        figures = (_cell(run.scores, name) for name in SCORES)
        lines.append([run.label, *figures, _known(run.seed), _known(run.tokens), *about])
    noise, order = reseed_noise(runs), discriminability(runs)
    parts = [markdown_table(head, lines)]
    if noise or order:
        rows: list[tuple[str, Mapping[str, JSON]]] = [
            ("reseed noise: deviation over seeds of the SAE", noise),
            ("discriminability: pairs of checkpoints in order", order),
        ]
        measured = [[name, *(_cell(figures, each) for each in SCORES)] for name, figures in rows if figures]
        parts.append(markdown_table(["", *SCORES.values()], measured))
    return "\n\n".join(parts) + "\n"


def _cell(figures: Mapping[str, Any], name: str) -> str:
    return f"{figures[name]:.3f}" if name in figures else ""


def _known(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
