"""The model card of an SAE: what it is, what it was trained on, what it measures, how to use it."""

from collections.abc import Mapping, Sequence
from typing import Any

from unbox.json_types import JSON

#: The figures (fields of `evaluate.Figures`) that cards and tables show.
FIGURES = (
    "fvu", "explained_variance", "explained_variance_per_channel", "l0", "dead_fraction", "dense_fraction",
)  # fmt: skip
TAGS = ["sparse-autoencoder", "interpretability", "sdxl"]
TEMPLATE = "---\n{{ card_data }}\n---\n\n{{ body }}\n"
FORMULA = "    z = ReLU(TopK(W_enc (x - b_pre) + b_lat)),  x^ = z W_dec + b_pre"
USE = """## Use

```python
from unbox import SAE

sae = SAE.load("path/to/this/folder")
codes = sae.encode(update)  # (..., k) values and indices
x = sae.decode(codes)
```"""


def card(facts: Mapping[str, JSON], meta: Mapping[str, Any]) -> str:
    """Markdown with the Hub's front matter, by `huggingface_hub.ModelCard`. `facts`: `sae_folder.FACTS`;
    `meta`: that of the SAE."""
    from huggingface_hub import ModelCard, ModelCardData

    figures, training = meta.get("figures") or {}, meta.get("training") or {}
    where = figures.get("rows_from", "")
    measured = [(name.replace("_", " "), f"{figures[name]:.4g}") for name in FIGURES if name in figures]
    options = [(k, str(v)) for k, v in sorted(training.items()) if not isinstance(v, dict | list)]
    parts = [
        f"# Sparse autoencoder of {facts['block'] or 'vectors'}",
        f"{_about(facts)}\n\n{FORMULA}",
        _table(f"Figures{f', on {where}' if where else ''}", "figure", measured) if figures else "",
        _table("Training", "option", options) if options else "",
        USE,
    ]
    body = "\n\n".join(part for part in parts if part)
    name = str(facts["name"] or facts["block"] or "SAE")
    data = ModelCardData(library_name="unbox", tags=TAGS, **_results(name, figures, where))
    return str(ModelCard.from_template(data, template_str=TEMPLATE, body=body))


def _results(name: str, figures: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The figures as the Hub lists them, where there are any."""
    from huggingface_hub import EvalResult

    found = [
        EvalResult(
            task_type="feature-extraction",
            dataset_type="activations",
            dataset_name=where or "rows",
            metric_type=key,
            metric_name=key.replace("_", " "),
            metric_value=figures[key],
        )
        for key in FIGURES
        if key in figures
    ]
    return {"model_name": name, "eval_results": found} if found else {}


def _about(facts: Mapping[str, JSON]) -> str:
    k, latents, width, threshold = (facts[name] for name in ("k", "latents", "width", "threshold"))
    over = f"{threshold:.6g}" if isinstance(threshold, float) else "each latent's own threshold"
    active = (
        f"the {k} largest pre-activations of a row are active"
        if threshold is None
        else f"pre-activations over {over} are active, {k} a row on average"
    )
    if not facts["block"]:
        return f"It reads vectors of width {width} as {latents} latents; {active}."
    return (
        f"It reads the update (output minus input) of the transformer block `{facts['block']}`, one vector "
        f"of {width} channels per position, as {latents} latents; {active}."
    )


def _table(title: str, name: str, rows: Sequence[tuple[str, str]]) -> str:
    lines = [f"| {key} | {value} |" for key, value in rows]
    return "\n".join([f"## {title}", "", f"| {name} | value |", "| --- | --- |", *lines])
