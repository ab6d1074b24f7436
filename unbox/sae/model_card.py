"""The model card of an SAE: what it is, what it was trained on, what it measures, how to use it."""

from typing import Any

from unbox.sae.model import SAE


def card(sae: SAE) -> str:
    """Markdown with the Hub's front matter."""
    meta = sae.meta
    parts = [_head(sae), _about(sae), _figures(meta.get("figures")), _training(meta), _usage(sae)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(sae: SAE) -> str:
    return "---\nlibrary_name: unbox\ntags:\n- sparse-autoencoder\n- interpretability\n- sdxl\n---"


def _about(sae: SAE) -> str:
    chosen = (
        f"the {sae.k} largest pre-activations of a row are active"
        if sae.threshold is None
        else f"pre-activations over {_threshold(sae.threshold)} are active, {sae.k} a row on average"
    )
    return "\n".join(
        [
            f"# Sparse autoencoder of {sae.block or 'vectors'}",
            "",
            f"It reads the update (output minus input) of the transformer block `{sae.block}`, one vector of "
            f"{sae.width} channels per position, as {sae.latents} latents; {chosen}."
            if sae.block
            else f"It reads vectors of width {sae.width} as {sae.latents} latents; {chosen}.",
            "",
            "    z = ReLU(TopK(W_enc (x - b_pre) + b_lat)),  x^ = z W_dec + b_pre",
        ]
    )


def _threshold(threshold: float | tuple[float, ...]) -> str:
    return f"{threshold:.6g}" if isinstance(threshold, float) else "each latent's own threshold"


def _figures(figures: Any) -> str:
    if not figures:
        return ""
    names = (
        "fvu",
        "explained_variance",
        "explained_variance_per_channel",
        "l0",
        "dead_fraction",
        "dense_fraction",
    )
    rows = [f"| {name.replace('_', ' ')} | {figures[name]:.4g} |" for name in names if name in figures]
    where = figures.get("rows_from", "")
    return "\n".join(
        [f"## Figures{f', on {where}' if where else ''}", "", "| figure | value |", "| --- | --- |", *rows]
    )


def _training(meta: Any) -> str:
    training = meta.get("training") or {}
    rows = [
        f"| {key} | {value} |"
        for key, value in sorted(training.items())
        if not isinstance(value, dict | list)
    ]
    return "\n".join(["## Training", "", "| option | value |", "| --- | --- |", *rows]) if rows else ""


def _usage(sae: SAE) -> str:
    return "\n".join(
        [
            "## Use",
            "",
            "```python",
            "from unbox import SAE",
            'sae = SAE.load("path/to/this/folder")',
            "codes = sae.encode(update)        # (..., k) values and indices",
            "x = sae.decode(codes)",
            "```",
        ]
    )
