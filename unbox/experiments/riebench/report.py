"""RIEBench's table: each method's mean distances with intervals, over all kinds of edits and for each."""

import numpy as np

from unbox.experiments.artifact_columns import DENSITY
from unbox.experiments.riebench.riebench_settings import RiebenchSettings
from unbox.experiments.tables import Table, markdown_table
from unbox.json_types import JSON
from unbox.statistics import bootstrap


def summary(rows: Table) -> list[dict[str, JSON]]:
    """Mean and interval of each figure by method, over all kinds and for each."""
    good = [row for row in rows if "error" not in row]
    names = [name for name in (good[0] if good else {}) if name not in ("id", "kind", "method")]
    found = []
    for kind in ("all", *dict.fromkeys(row["kind"] for row in good)):
        for method in dict.fromkeys(row["method"] for row in good):
            of_cell = [r for r in good if r["method"] == method and kind in ("all", r["kind"])]
            if not of_cell:
                continue
            entry: dict[str, JSON] = {"kind": kind, "method": method, "examples": len(of_cell)}
            for name in names:
                entry |= bootstrap(np.array([r[name] for r in of_cell])).columns(name)
            found.append(entry)
    return found


def markdown(rows: Table, settings: RiebenchSettings) -> str:
    """The table over all kinds, what failed, and what is not as published."""
    entries = [e for e in summary(rows) if e["kind"] == "all"]
    failed = [row for row in rows if "error" in row]
    names = [n for n in (entries[0] if entries else {}) if f"{n}_low" in entries[0]]
    cells = [
        [str(e["method"]), *(f"{e[n]:.3f} [{e[f'{n}_low']:.3f}, {e[f'{n}_high']:.3f}]" for n in names)]
        for e in entries
    ]
    failures = [f"- {row['id']}: {row['error']}" for row in failed]
    count = f"Failed: {len(failed)} of {len({r['id'] for r in rows})} examples."
    apart = [f"- {difference}" for difference in differences(settings)]
    table = markdown_table(["method", *names], cells)
    return "\n".join([table, "", count, *failures, "", "Not as published:", "", *apart, ""])


def differences(settings: RiebenchSettings) -> list[str]:
    """What of a run is not as RIEBench was published."""
    found = [
        "examples that cannot be run are rows with their error; there they were left out",
        "random features stand beside every edit by features; there is no such control there",
    ]
    if settings.masks is None:
        found.append("masks are of cross-attention; there they are Grounded-SAM's")
    distances = [name for name in settings.metrics if name != DENSITY]
    if set(distances) != {"lpips", "clip"}:
        found.append(f"distances are {', '.join(distances)}; there lpips and clip (ViT-L/14)")
    usual = RiebenchSettings()
    given = {name: getattr(settings, name) for name in ("steps", "guidance", "seed", "height", "width")}
    changed = [f"{name} {value}" for name, value in given.items() if value != getattr(usual, name)]
    return found + [f"{', '.join(changed)}; there the defaults of this command"] * bool(changed)
