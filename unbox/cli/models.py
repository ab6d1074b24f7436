"""`unbox models`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tyro.conf import Positional

from unbox.capture.planned_run import PlannedRun
from unbox.cli.model_options import Group
from unbox.errors import UnboxError
from unbox.validation import Several, Text, validated

if TYPE_CHECKING:
    from unbox.models import System
    from unbox.models.systems import Need


@validated
class ModelsCommand:
    """List the systems: settings, what is present on this machine, what would be downloaded.

    With names, one page about each.
    """

    names: Positional[Several[Text]] = ()
    """Systems to describe in full; all in a table if none."""
    ready: bool = False
    """Only those that can run here now, without a network."""
    json: bool = False
    """Print JSON, a list of the systems."""
    plan: bool = False
    """Print what a run takes of a card and of memory, before it is tried; a name may be a folder too."""
    planned: Group[PlannedRun] = PlannedRun()

    def __post_init__(self) -> None:
        if self.plan and (self.json or self.ready or not self.names):
            raise UnboxError("--plan is of systems that are named, unbox models NAME --plan, and prints text")

    def run(self) -> None:
        if self.plan:
            print("\n\n".join(plan_of(name, self.planned) for name in self.names))
            return
        from unbox.models.hub import missing, present
        from unbox.models.system_table import SYSTEMS, find_system

        rows = [find_system(name) for name in self.names] or list(SYSTEMS.values())
        here = {row.name: present(row) for row in rows}
        rows = [row for row in rows if here[row.name] or not self.ready]
        missing_files = {row.name: [] if here[row.name] else missing(row) for row in rows}
        if self.json:
            from json import dumps

            facts = [{"present": here[r.name], "download_bytes": size(missing_files[r.name])} for r in rows]
            print(dumps([row.to_json() | more for row, more in zip(rows, facts, strict=True)], indent=1))
        elif self.names:
            print("\n\n".join(page(row, here[row.name], missing_files[row.name]) for row in rows))
        else:
            print(table([line(row, here[row.name], missing_files[row.name]) for row in rows]))
            print("\nRandom weights: settings and sampler were run here, the published weights were not.")
            print("`unbox models NAME` shows one in full; docs/systems.md has sources and licences.")


def plan_of(name: str, options: PlannedRun) -> str:
    """What a run of a system, or of a diffusers folder, takes."""
    from dataclasses import replace
    from pathlib import Path

    from unbox.capture.memory_plan import memory_plan, networks_of
    from unbox.models.system_table import GENERIC, SYSTEMS, find_system
    from unbox.models.systems import folder_system

    place = None if name in SYSTEMS or not Path(name).is_dir() else Path(name)
    carried = None if place is None else folder_system(place) or replace(GENERIC, name=place.name)
    system = carried or find_system(name)
    return "\n".join(memory_plan(system, networks_of(system, place), options).lines())


HEADER = ("system", "weights", "steps", "guidance", "size", "predicts", "scheduler", "run here with")


Files = Sequence["Need"]


def line(row: "System", present: bool, missing_files: Files) -> tuple[str, ...]:
    """One row of the table."""
    real = row.verified.startswith("real weights")
    settings = (str(row.steps), f"{row.guidance:g}", str(row.size or "-"), row.prediction)
    run_with = "real weights" if real else "random weights"
    place, scheduler = where(row, present, missing_files), row.scheduler.removesuffix("Scheduler")
    return (row.name, place, *settings, scheduler, run_with)


def where(row: "System", present: bool, missing_files: Files) -> str:
    """Where the weights are: here, to be downloaded (what is missing), or the user's."""
    if present:
        return "here"
    if row.base is None:
        return "name your own"
    return f"download {size(missing_files) / 1e9:.1f} GB" if missing_files else "not installed"


def size(missing_files: Files) -> int:
    """Bytes to be downloaded."""
    return sum(need.bytes for need in missing_files)


def table(lines: list[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell."""
    rows = [HEADER, *lines]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def said_of_guidance(row: "System") -> str:
    """What the guidance of a distilled system does."""
    if row.guidance_embedded:
        return " (read by the UNet: one forward a step, no negative prompt)"
    most = f"; at most {row.guidance_limit:g} on top" if row.guidance_limit > 1 else ""
    return f" (distilled: no classifier-free guidance{most})" if row.distilled else ""


def page(row: "System", present: bool, missing_files: Files) -> str:
    """Everything about one system."""
    from unbox.models.systems import PIPELINE_FILE

    weights = []
    for need in row.needs:
        state = f"{need.bytes / 1e9:.1f} GB to download" if need in missing_files else "here"
        file = need.file if need.file != PIPELINE_FILE else ""
        weights.append(f"{need.repo}/{file}".rstrip("/") + f" ({state})")
    yours = f"yours: --model CHECKPOINT --system {row.name}"
    counts = ", ".join(map(str, row.step_counts or ()))
    facts = {
        "weights": " + ".join(weights) or row.base or yours,
        "present": where(row, present, missing_files),
        "scheduler": f"{row.scheduler} {dict(row.scheduler_config) or ''}",
        "timesteps": next(iter(row.timesteps.values()), None) if row.timesteps else None,
        "predicts": row.prediction,
        "steps": f"{row.steps}" + (f" (trained for {counts})" if counts else ""),
        "guidance": f"{row.guidance:g}" + said_of_guidance(row),
        "noise": f"{row.eta:g} of each step's (eta)" if row.eta else None,
        "size": row.size,
        "split": row.split,
        "paper": row.paper,
        "licence": row.licence,
        "run here": row.verified,
    }
    shown = [f"  {name:10} {value}" for name, value in facts.items() if value not in (None, "")]
    return "\n".join([f"{row.name}: {row.title}", *shown])
