"""Blocks: what each block's SAE keeps, and what its features mean, in figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unbox.explorer import fragments
from unbox.explorer.events import html_component
from unbox.explorer.session import ExplorerSession

TITLE = "Blocks"


@dataclass(frozen=True)
class Parts:
    """The page's components."""

    body: Any


def draw(session: ExplorerSession) -> Parts:
    """The page's components; call inside its tab."""
    return Parts(html_component(body(session), elem_id="blocks-body"))


def body(session: ExplorerSession) -> str:
    """Tables of the SAEs, of their held-out figures where there are some, and of what the atlas counted."""
    sections = ["<h4>SAEs</h4>", _saes(session)]
    if figures := {name: found for name, sae in session.saes.items() if (found := figures_of(session, name))}:
        sections += ["<h4>Held-out figures <small>unbox evaluate</small></h4>", _figures(figures)]
    if session.bench:
        sections += [
            "<h4>What a block can cause <small>unbox bench shapes</small></h4>",
            *_bench(session.bench),
        ]
    if session.atlas is not None:
        sections += ["<h4>Atlas</h4>", _atlas(session)]
    return f'<div class="ub-gallery">{"".join(sections)}</div>'


def figures_of(session: ExplorerSession, name: str) -> dict[str, Any]:
    """Figures of an SAE: those given to the explorer, else those kept beside it when it was trained."""
    return dict(session.figures.get(name) or session.saes[name].meta.get("figures") or {})


def _saes(session: ExplorerSession) -> str:
    rows = [
        (name, sae.block, sae.width, sae.latents, sae.k, float(sae.update_std))
        for name, sae in session.saes.items()
    ]
    return fragments.table(("SAE", "block", "width", "latents", "k", "deviation of updates"), rows)


def _figures(figures: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, found in figures.items():
        interval = found.get("fvu_interval")
        rows.append((
            name, found.get("explained_variance"), found.get("fvu"),
            f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else None,
            found.get("l0"), found.get("dead_fraction"), found.get("dense_fraction"), found.get("rows"),
        ))  # fmt: skip
    heads = ("SAE", "explained variance", "FVU", "95 % interval", "active a place", "dead", "dense", "rows")
    groups = [
        (
            name,
            group.get("step"),
            group.get("branch"),
            group["explained_variance"],
            group["l0"],
            group["rows"],
        )
        for name, found in figures.items()
        for group in found.get("groups", ())
    ]
    more = fragments.table(("SAE", "step", "branch", "explained variance", "active a place", "rows"), groups)
    detail = f"<details><summary>By step and branch</summary>{more}</details>" if groups else ""
    return fragments.table(heads, rows) + detail


def _bench(results: Mapping[str, Any]) -> tuple[str, str]:
    """What `unbox bench shapes` found by block: how often copying a block's updates between two pictures
    carries a kind of edit over, and how well each method's best unit tells the values of a factor."""
    owned = {(row["kind"], row["block"]): row for row in results.get("ownership", ())}
    blocks = list(dict.fromkeys(block for _, block in owned))
    kinds = list(dict.fromkeys(kind for kind, _ in owned))
    carried = [(kind, *(_share(owned.get((kind, block))) for block in blocks)) for kind in kinds]
    by_method: dict[tuple[str, str], list[float]] = {}
    for row in results.get("meaning", ()):
        by_method.setdefault((row["block"], row["method"]), []).append(row["auroc"])
    meaning = [(*key, sum(found) / len(found), len(found)) for key, found in by_method.items()]
    return (
        fragments.table(("edits carried by a block's updates alone", *blocks), carried),
        fragments.table(("block", "method", "mean held-out AUROC of the best unit", "values"), meaning),
    )


def _share(row: Mapping[str, Any] | None) -> str | None:
    """A rate with its interval."""
    if row is None:
        return None
    return f"{row['success']:.2f} ({row['success_low']:.2f} to {row['success_high']:.2f})"


def _atlas(session: ExplorerSession) -> str:
    assert session.atlas is not None
    rows = session.atlas.summary()
    heads = (
        "SAE",
        "features",
        "active ones",
        "labelled",
        "median density",
        "mean label score",
        "scored labels",
    )
    return fragments.table(heads, rows)
