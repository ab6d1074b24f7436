"""`unbox models`."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro


@dataclass(frozen=True)
class Models:
    """List the systems: settings, what is present on this machine, what would be downloaded.

    With names, one page about each.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Systems to describe in full; all in a table if none."""
    ready: bool = False
    """Only those that can run here now, without a network."""
    json: bool = False
    """The rows as JSON."""

    def run(self) -> int:
        from unbox.models.rows import SYSTEMS, find_system
        from unbox.models.weights import present

        rows = [find_system(name) for name in self.names] or list(SYSTEMS.values())
        here = {row.name: present(row) for row in rows}
        rows = [row for row in rows if here[row.name] or not self.ready]
        if self.json:
            from json import dumps

            print(dumps([{**row.to_json(), "present": here[row.name]} for row in rows], indent=1))
        elif self.names:
            print("\n\n".join(page(row, here[row.name]) for row in rows))
        else:
            print(table([line(row, here[row.name]) for row in rows]))
            print("\n`unbox models NAME` tells all; docs/systems.md has sources and licences.")
        return 0


HEADER = ("system", "weights", "steps", "guidance", "size", "predicts", "scheduler", "run here with")


def line(row: Any, present: bool) -> tuple[str, ...]:
    """One row of the table."""
    real = row.verified.startswith("real weights")
    return (
        row.name,
        where(row, present),
        str(row.steps),
        f"{row.guidance:g}",
        str(row.size or "-"),
        row.prediction,
        row.scheduler.removesuffix("Scheduler"),
        "real weights" if real else "random weights",
    )


def where(row: Any, present: bool) -> str:
    """Where the weights are: here, to be downloaded (size), or the user's."""
    if present:
        return "here"
    if row.base is None:
        return "name your own"
    return "not installed" if not row.download else f"{row.download / 1e9:.1f} GB"


def table(lines: list[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell."""
    rows = [HEADER, *lines]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def page(row: Any, present: bool) -> str:
    """Everything about one system."""
    weights = [name for name in (row.base, row.refiner) if name]
    weights += [f"{part.kind} {part.repo}" + (f"/{part.file}" if part.file else "") for part in row.parts]
    counts = ", ".join(map(str, row.step_counts or ()))
    facts = {
        "weights": " + ".join(weights) or f"yours: --model CHECKPOINT --system {row.name}",
        "present": where(row, present),
        "scheduler": f"{row.scheduler} {dict(row.scheduler_config) or ''}",
        "timesteps": next(iter(row.timesteps.values()), None) if row.timesteps else None,
        "predicts": row.prediction,
        "steps": f"{row.steps}" + (f" (trained for {counts})" if counts else ""),
        "guidance": f"{row.guidance:g}" + (" (distilled: no classifier-free guidance)" * row.distilled),
        "size": row.size,
        "split": row.split,
        "paper": row.paper,
        "licence": row.licence,
        "run here": row.verified,
    }
    shown = [f"  {name:10} {value}" for name, value in facts.items() if value not in (None, "")]
    return "\n".join([f"{row.name}: {row.title}", *shown])
