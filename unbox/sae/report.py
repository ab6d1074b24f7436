"""An evaluation on disk: figures as JSON, a table in Markdown, plots."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from activation_store.files import publish_file, write_json, write_text
from unbox.sae.evaluate import DENSITY_EDGES, Figures
from unbox.sae.model_card import FIGURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_report(
    figures: Mapping[str, Figures], folder: str | os.PathLike, pages: Mapping[str, str] | None = None
) -> None:
    """Write for each SAE a plot, pages of Markdown by file name, table.md and, last, figures.json into a
    folder, each whole or not at all, in place of those of an evaluation before."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in figures.items():
        with publish_file(folder / f"{name}.png") as temporary:
            plot(name, found, temporary)
    for name, text in (pages or {}).items():
        write_text(folder / name, text)
    write_text(folder / "table.md", markdown(figures))
    write_json(folder / "figures.json", {name: found.to_json() for name, found in figures.items()})


def markdown(figures: Mapping[str, Figures]) -> str:
    """A table: one line an SAE."""
    head = ["SAE", *(name.replace("_", " ") for name in FIGURES), "FVU, 95 % interval"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for name, found in figures.items():
        numbers = [f"{getattr(found, column):.4g}" for column in FIGURES]
        interval = "{:.4g} to {:.4g}".format(*found.fvu_interval) if found.fvu_interval else "-"
        lines.append(f"| {' | '.join([name, *numbers, interval])} |")
    return "\n".join(lines) + "\n"


def plot(name: str, figures: Figures, path: Path) -> None:
    """Explained variance by step and branch, firing densities, and FVU over the block's grid."""
    from matplotlib.figure import Figure

    page = Figure(figsize=(11, 3.2), layout="constrained")
    by_step, densities, grid = page.subplots(1, 3)
    _plot_steps(by_step, figures)
    _plot_densities(densities, figures)
    _plot_positions(grid, figures)
    page.suptitle(f"{name}: explained variance {figures.explained_variance:.3f}, L0 {figures.l0:.1f}")
    page.savefig(path, dpi=120, format="png")


def _plot_steps(axes: "Axes", figures: Figures) -> None:
    stepped = [g for g in figures.groups if g.step is not None]
    for branch in dict.fromkeys(g.branch for g in stepped):
        line = [g for g in stepped if g.branch == branch]
        steps, explained = [float(g.step or 0) for g in line], [g.explained_variance for g in line]
        axes.plot(steps, explained, "o-", label=branch or "all")
    axes.set(xlabel="step", ylabel="explained variance")
    if stepped:
        axes.legend(frameon=False)
    else:
        axes.axhline(figures.explained_variance)


def _plot_densities(axes: "Axes", figures: Figures) -> None:
    names = ["under", *(f"{edge:.0e}" for edge in DENSITY_EDGES[:-1])]
    axes.bar(names, figures.density_histogram)
    axes.tick_params(axis="x", rotation=60)
    axes.set(xlabel="firing density, from", ylabel="latents")


def _plot_positions(axes: "Axes", figures: Figures) -> None:
    if figures.positions:
        image = axes.imshow(figures.positions, cmap="viridis")
        axes.figure.colorbar(image, ax=axes, label="FVU")
        axes.set(xlabel="x", ylabel="y")
    else:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "these rows have no positions", ha="center")
