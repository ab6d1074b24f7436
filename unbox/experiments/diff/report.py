"""The page of a comparison of systems: tables, plots and the pictures that show a change."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from activation_store import Store
from activation_store.files import write_text
from unbox.image_uri import data_uri
from unbox.templates import Templates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Prompts whose pictures are shown.
SHOWN_PROMPTS = 8


def write_report(path: Path, figures: Mapping[str, Any], stores: Mapping[str, Store]) -> Path:
    """Write the page; returns its path. `figures`: those of `figures.json`."""
    first = stores[figures["first"]]
    prompts = [first.samples[i].prompt for i in range(min(SHOWN_PROMPTS, len(first)))]
    pictures = {name: [picture(store, i) for i in range(len(prompts))] for name, store in stores.items()}

    def pairs(name: str, images: list[int]) -> list[dict[str, str]]:
        return [
            {"prompt": first.samples[i].prompt, "first": picture(first, i), "other": picture(stores[name], i)}
            for i in images
        ]

    page = Templates("unbox.experiments.diff", number=number).render(
        "diff.html",
        figures=figures,
        prompts=prompts,
        pictures=pictures,
        pairs=pairs,
        plots={block: by_step(of["explained"]) for block, of in figures["blocks"].items()},
    )
    write_text(path, page)
    return path


def picture(store: Store, image: int) -> str:
    """A kept picture as a data URI; empty where there is none."""
    data = store.thumbnail_or_empty(image)
    return data_uri(data, "webp") if data else ""


def number(value: float) -> str:
    """A figure with four digits."""
    return f"{value:.4g}"


def by_step(explained: Mapping[str, Any]) -> str:
    """FVU by step of every system, of the first set of SAEs, as SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 2.6), layout="constrained")
    axes = figure.subplots()
    for name, of in next(iter(explained.values())).items():
        steps = {int(step): fvu for step, fvu in of["by_step"].items()}
        axes.plot(list(steps), list(steps.values()), marker="o", label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("FVU")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return svg_of(figure)


def svg_of(figure: "Figure") -> str:
    """The picture of a plot, without what is different each time."""
    from matplotlib import rc_context

    stream = io.StringIO()
    with rc_context({"svg.hashsalt": "unbox"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue().partition("<svg")[1] + stream.getvalue().partition("<svg")[2]
