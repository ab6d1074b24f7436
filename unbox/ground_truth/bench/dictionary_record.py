"""Whose dictionary a run of `unbox bench shapes` tested, and what it scored: one row of the leaderboard."""

import subprocess
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from unbox.errors import UnboxError
from unbox.ground_truth.bench.bench_rows import BenchResults
from unbox.ground_truth.bench.bench_settings import BenchSettings
from unbox.ground_truth.bench.score import score
from unbox.installed_versions import version
from unbox.json_types import JSON
from unbox.models import Model
from unbox.sae import SAE


def by_block(saes: Mapping[str, SAE]) -> dict[str, SAE]:
    """Block -> SAE. Raises UnboxError for one that names no block, and for two of one block."""
    found: dict[str, SAE] = {}
    for name, sae in saes.items():
        if not sae.block:
            raise UnboxError(f"the SAE '{name}' names no block: give it one with `unbox sae import --block`")
        if sae.block in found:
            raise UnboxError(
                f"'{found[sae.block].name}' and '{name}' are both of {sae.block}: test one a run"
            )
        found[sae.block] = sae
    return found


def scored(
    results: BenchResults, model: Model, saes: Mapping[str, SAE], settings: BenchSettings
) -> dict[str, JSON]:
    """Scores, what was tested (`label`, `seed`, `tokens`), the command and the commit."""
    first = next(iter(saes.values()))
    training: Mapping[str, Any] = first.meta.get("training", {})
    layout = first.meta.get("imported", {}).get("format", "unbox")
    variant = training.get("variant", "imported")
    label = (
        f"{model.system.name}, {layout} {variant}, {first.latents} latents, k {first.k}, {len(saes)} blocks"
    )
    usual = BenchSettings()
    changed = {
        f.name.replace("_", "-"): value
        for f in fields(BenchSettings)
        if (value := getattr(settings, f.name)) != getattr(usual, f.name) and f.name != "values"
    }
    options = "".join(f" --{name} {_typed(value)}" for name, value in changed.items())
    return {
        "label": label,
        "scores": {**score(results)},
        "seed": training.get("seed"),
        "tokens": training.get("seen", training.get("tokens")),  # a snapshot says what it has seen
        "command": f"unbox bench shapes --saes SAES --out OUT --model {model.system.name}{options}",
        "commit": commit(),
        "saes": {block: sae.digest for block, sae in saes.items()},
        "values": len(settings.values),
    }


def _typed(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def commit() -> str:
    """The commit of the checkout that runs, or unbox's version where it is installed without one."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return version("unbox")
    found = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or version("unbox")
