"""The model card of an SAE: what it is, what it was trained on, what it measures, how to use it."""

from collections.abc import Sequence

from unbox.sae.sae_folder import SAEFolder, Threshold

#: The figures (fields of `evaluate.Figures`) that cards and tables show.
FIGURES = (
    "fvu",
    "explained_variance",
    "explained_variance_per_channel",
    "l0",
    "dead_fraction",
    "dense_fraction",
)
FRONT_MATTER = "---\nlibrary_name: unbox\ntags:\n- sparse-autoencoder\n- interpretability\n- sdxl\n---"
FORMULA = "    z = ReLU(TopK(W_enc (x - b_pre) + b_lat)),  x^ = z W_dec + b_pre"
USE = """## Use

```python
from unbox import SAE
sae = SAE.load("path/to/this/folder")
codes = sae.encode(update)        # (..., k) values and indices
x = sae.decode(codes)
```"""


def card(sae: SAEFolder) -> str:
    """Markdown with the Hub's front matter."""
    figures, training = sae.meta.get("figures") or {}, sae.meta.get("training") or {}
    where = figures.get("rows_from", "")
    measured = [(name.replace("_", " "), f"{figures[name]:.4g}") for name in FIGURES if name in figures]
    options = [(k, str(v)) for k, v in sorted(training.items()) if not isinstance(v, dict | list)]
    parts = [
        f"{FRONT_MATTER}\n\n# Sparse autoencoder of {sae.block or 'vectors'}",
        f"{_about(sae)}\n\n{FORMULA}",
        _table(f"Figures{f', on {where}' if where else ''}", "figure", measured) if figures else "",
        _table("Training", "option", options) if options else "",
        USE,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(sae: SAEFolder) -> str:
    latents, width = sae.shape
    active = (
        f"the {sae.k} largest pre-activations of a row are active"
        if sae.threshold is None
        else f"pre-activations over {_threshold(sae.threshold)} are active, {sae.k} a row on average"
    )
    if not sae.block:
        return f"It reads vectors of width {width} as {latents} latents; {active}."
    return (
        f"It reads the update (output minus input) of the transformer block `{sae.block}`, one vector of "
        f"{width} channels per position, as {latents} latents; {active}."
    )


def _threshold(threshold: Threshold) -> str:
    return f"{threshold:.6g}" if isinstance(threshold, float) else "each latent's own threshold"


def _table(title: str, name: str, rows: Sequence[tuple[str, str]]) -> str:
    lines = [f"| {key} | {value} |" for key, value in rows]
    return "\n".join([f"## {title}", "", f"| {name} | value |", "| --- | --- |", *lines])
