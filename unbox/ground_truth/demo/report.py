"""The demo's page: one HTML file with its pictures inside."""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from activation_store.files import write_text
from unbox.ground_truth.demo.block_ablation import BlockAblation
from unbox.ground_truth.demo.demo_plan import DemoPlan
from unbox.ground_truth.demo.turn_on import Counts, MeasuredEdit
from unbox.ground_truth.effects import Cases
from unbox.installed_versions import version
from unbox.result_cache import Stage
from unbox.shapes import FACTORS
from unbox.statistics import wilson
from unbox.templates import Templates

#: An edit counts as working when it succeeds at least this often, and random features at most that often.
SUCCESS, CHANCE = 0.70, 0.10

#: How many pictures are shown without each block.
SHOWN = 6
#: How many of the pictures read are shown.
SAMPLES = 24


class Findings(NamedTuple):
    """Results of the stages, as the page needs them."""

    plan: DemoPlan
    model: str
    fingerprint: dict[str, Any]
    cases: Cases
    ablations: list[BlockAblation]
    blocks: list[dict[str, Any]]
    found: dict[str, Any]
    edits: list[MeasuredEdit]
    stages: Sequence[Stage]

    def working(self) -> list[MeasuredEdit]:
        """The edits that turn their value on, where random features do not."""
        tried = [e for e in self.edits if e["edited"]["n"]]
        return [e for e in tried if rate(e["edited"]) >= SUCCESS and rate(e["control"]) <= CHANCE]


def write_report(path: Path, findings: Findings, following: str) -> Path:
    """Write the page; `following` is what to type next. Returns its path."""
    templates = Templates("unbox.ground_truth.demo", percent=percent)
    write_text(path, templates.render("report.html", **content(findings), next=following))
    return path


def percent(share: float, digits: int = 0) -> str:
    """0.123 as `12%`."""
    return f"{100 * share:.{digits}f}%"


def rate(outcome: Counts) -> float:
    """Share of an outcome's pictures in which the value was read."""
    return outcome["hits"] / max(outcome["n"], 1)


def content(f: Findings) -> dict[str, Any]:
    """Everything that the template names."""
    samples = sample_rows(f.cases)
    seconds = sum(stage.seconds for stage in f.stages)
    settings = {
        "plan": f.plan.part(*f.plan.__dataclass_fields__),
        "model": f.fingerprint,
        "unbox": version("unbox"),
    }
    return {
        "model": f.model,
        "plan": f.plan,
        "working": f.working(),
        "bars": {"success": SUCCESS, "chance": CHANCE},
        "samples": samples[:SAMPLES],
        "pictures_read": len(samples),
        "accuracy": [(name, np.mean([name not in s["missed"] for s in samples])) for name in FACTORS],
        "ablations": ablations(f.ablations, [row["block"] for row in f.blocks]),
        "whole": samples[:SHOWN],
        "blocks": f.blocks,
        "factors": list(FACTORS),
        **owners(f.found["owners"]),
        "features": f.found["features"],
        "edits": [edit(e) for e in f.edits],
        "minutes": f"{seconds / 60:.1f} minutes",
        "machine": f"{os.cpu_count()} cores ({platform.machine()})",
        "stages": [{"folder": stage.folder.name, "seconds": stage.seconds} for stage in f.stages],
        "settings": json.dumps(settings, indent=1, default=str),
    }


def sample_rows(cases: Cases) -> list[dict[str, Any]]:
    """Pictures, captions, and the factors that the detector reads otherwise than they say."""
    rows = []
    for p, scene, image, read in zip(cases.prompts, cases.scenes, cases.images, cases.readings, strict=True):
        missed = [factor for factor, value in scene.factors().items() if read[factor] != value]
        rows.append({"caption": p.text, "picture": image, "missed": missed})
    return rows


def ablations(found: Sequence[BlockAblation], studied: Sequence[str]) -> list[dict[str, Any]]:
    """Those of studied blocks first, then the others by how far pictures move."""
    first = [row for row in found if row["block"] in studied]
    rest = sorted((row for row in found if row["block"] not in studied), key=lambda row: -row["change"])
    best = {name: max(found, key=lambda row: row["factors"][name])["block"] for name in FACTORS}

    def cell(row: BlockAblation, name: str) -> dict[str, float | bool]:
        share = row["factors"][name]
        return {"share": share, "shade": 0.8 * share, "best": share > 0 and best[name] == row["block"]}

    return [
        {**row, "studied": row["block"] in studied, "cells": [cell(row, name) for name in FACTORS]}
        for row in (*first, *rest)
    ]


def owners(table: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Block by factor, AUROC with shades from chance to certainty, and the best block of each factor."""
    best = {name: max(table, key=lambda block: table[block][name]) for name in FACTORS}

    def cell(block: str, name: str) -> dict[str, float | bool]:
        share = table[block][name]
        return {"auroc": share, "shade": max(0.0, 2 * share - 1) ** 1.5 * 0.8, "best": best[name] == block}

    rows = [{"block": block, "cells": [cell(block, name) for name in FACTORS]} for block in table]
    return {"owners": rows, "best": [(name, block, table[block][name]) for name, block in best.items()]}


def edit(e: MeasuredEdit) -> dict[str, Any]:
    """One edit with its intervals."""
    rates: list[dict[str, Any]] = []
    for name, kind, o in (
        ("these features", "edited", e["edited"]),
        ("random features", "control", e["control"]),
    ):
        low, high = wilson(o["hits"], o["n"])
        rates.append({"name": name, "kind": kind, "rate": rate(o), "low": low, "high": high, **o})
        if "artifacts" in o:
            rates[-1]["spoilt"] = o["artifacts"] / max(o["n"], 1), *wilson(o["artifacts"], o["n"])
    return {**e, "blocks": list(dict.fromkeys(name.split("/")[0] for name in e["features"])), "rates": rates}
