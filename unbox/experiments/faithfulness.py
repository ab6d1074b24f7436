"""What reconstructions cost in pictures: the same images drawn with a block's updates replaced by its SAE's.

Beside each stands the same with the block ablated: where that changes little, a faithful picture says little
about the SAE.
"""

from collections.abc import Mapping, Sequence
from functools import cache, partial

import numpy as np

from unbox.edit import Block, Edit
from unbox.experiments.metrics import ImagePair, pixels, structure
from unbox.experiments.tables import markdown_table
from unbox.models import Model
from unbox.result_cache import ResultCache
from unbox.sae import SAE
from unbox.statistics import Interval, bootstrap

#: Figures of a pair of images, by name: root mean square difference in 0..1, and (1 - SSIM) / 2.
FIGURES = ("rmse", "dssim")


def faithfulness(
    model: Model,
    saes: Mapping[str, SAE],
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int | None = None,
    guidance: float | None = None,
    batch_size: int = 8,
    results: ResultCache | None = None,
) -> dict[str, dict[str, Interval]]:
    """For each SAE, by name: `rmse` and `dssim` between the image and the one with reconstructions, and
    `ablated_rmse`, `ablated_dssim` with the block ablated; means over images with 95 % intervals.

    `results` keeps each SAE's figures; its context must be of all the others that decide them."""

    draw = partial(
        model.generate,
        list(prompts),
        seeds=list(seeds),
        steps=steps,
        guidance=guidance,
        batch_size=batch_size,
    )
    plain = cache(draw)

    def compared(edit: Edit) -> dict[str, Interval]:
        pairs = [ImagePair(b, a, p) for b, a, p in zip(plain(), draw(edits=edit), prompts, strict=True)]
        rows = [x | y for x, y in zip(pixels(pairs), structure(pairs), strict=True)]
        return {name: bootstrap(np.array([row[name] for row in rows])) for name in FIGURES}

    def measured(sae: SAE) -> dict[str, Interval]:
        block = Block(sae.block)
        ablated = compared(block.ablate())
        return compared(block.reconstruct(sae)) | {f"ablated_{k}": v for k, v in ablated.items()}

    found = {}
    for name, sae in saes.items():
        kept = measured(sae) if results is None else results.get(["pictures", sae.identity], measured, sae)
        found[name] = {figure: Interval(*interval) for figure, interval in kept.items()}
    return found


def faithfulness_table(found: Mapping[str, Mapping[str, Interval]]) -> str:
    """Markdown: one line an SAE."""
    columns = [*FIGURES, *(f"ablated_{name}" for name in FIGURES)]
    head = ["SAE", *(column.replace("_", ", ") for column in columns)]
    return (
        markdown_table(head, [[name, *(str(row[c]) for c in columns)] for name, row in found.items()]) + "\n"
    )
