"""What reconstructions cost in pictures: the same images drawn with a block's updates replaced by its SAE's.

Beside each stands the same with the block ablated: where that changes little, a faithful picture says little
about the SAE.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TypedDict

import numpy as np

from activation_store import Store
from unbox.edit import Block, Branch, Edit, Edits
from unbox.errors import UnboxError
from unbox.experiments.metrics import ImagePair, pixels, structure
from unbox.experiments.tables import markdown_table
from unbox.model_mismatch import recorded_run
from unbox.models import Model
from unbox.models.sampling_options import PromptOptions, prompt_options
from unbox.result_cache import ResultCache
from unbox.sae import SAE
from unbox.site import BRANCHES
from unbox.statistics import Interval, bootstrap

#: Figures of a pair of images, by name: root mean square difference in 0..1, and (1 - SSIM) / 2.
FIGURES = ("rmse", "dssim")


class RecordedSampling(TypedDict):
    """What a store records of how its images were drawn."""

    steps: int
    guidance: float
    height: int
    width: int
    negative_prompt: str | None
    reading: PromptOptions


def faithfulness_on(
    model: Model, saes: Mapping[str, SAE], store: Store, images: int, results: ResultCache | None = None
) -> dict[str, dict[str, Interval]]:
    """`faithfulness` on the first images of a store, drawn as it was recorded: steps, guidance, sizes and
    negative prompt; updates are replaced at the steps and on the branches that it kept.

    Raises UnboxError for more images than there are, and a store that does not say how it was recorded.
    """
    if images > len(store):
        raise UnboxError(f"--images {images}: {store.path} has {len(store)}")
    run, samples = recorded_run(store.provenance), [store.samples[i] for i in range(images)]
    if missing := [name for name in ("steps", "guidance", "height", "width") if run.get(name) is None]:
        raise UnboxError(
            f"{store.path} does not say at which {', '.join(missing)} it was recorded, so its images cannot "
            "be drawn again"
        )
    sampling: RecordedSampling = {
        "steps": run["steps"],
        "guidance": run["guidance"],
        "height": run["height"],
        "width": run["width"],
        "negative_prompt": run.get("negative_prompt"),
        "reading": prompt_options(store.provenance),
    }
    only = set(store.schema.branches) if run["guidance"] > 1 else set(BRANCHES)
    return faithfulness(
        model,
        saes,
        [sample.prompt for sample in samples],
        [sample.seed for sample in samples],
        **sampling,
        kept_steps=store.schema.steps,
        branch="both" if only == set(BRANCHES) else "cond" if "cond" in only else "uncond",
        results=results,
    )


def faithfulness(
    model: Model,
    saes: Mapping[str, SAE],
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int | None = None,
    guidance: float | None = None,
    height: int | None = None,
    width: int | None = None,
    negative_prompt: str | None = None,
    reading: PromptOptions | None = None,
    batch_size: int = 8,
    kept_steps: Sequence[int] | None = None,
    branch: Branch = "both",
    results: ResultCache | None = None,
) -> dict[str, dict[str, Interval]]:
    """For each SAE, by name: `rmse` and `dssim` between the image and the one with reconstructions, and
    `ablated_rmse`, `ablated_dssim` with the block ablated; means over images with 95 % intervals.

    Updates are replaced at `kept_steps` (the scheduler's numbers; None: all) and on a branch, or both.
    `reading`: how long prompts and weights are read. `results` keeps each SAE's figures; its context must be
    of all the others that decide them."""

    draw = partial(
        model.generate,
        list(prompts),
        seeds=list(seeds),
        steps=steps,
        guidance=guidance,
        height=height,
        width=width,
        negative_prompt=negative_prompt,
        batch_size=batch_size,
        **({} if reading is None else vars(reading)),
    )
    plain, ranges = cache(draw), [None] if kept_steps is None else _ranges(kept_steps)

    def compared(edit: Edit) -> dict[str, Interval]:
        edits = Edits(tuple(replace(edit, steps=steps, branch=branch) for steps in ranges))
        pairs = [ImagePair(b, a, p) for b, a, p in zip(plain(), draw(edits=edits), prompts, strict=True)]
        rows = [x | y for x, y in zip(pixels(pairs), structure(pairs), strict=True)]
        return {name: bootstrap(np.array([row[name] for row in rows])) for name in FIGURES}

    def measured(sae: SAE) -> dict[str, Interval]:
        block = Block(sae.block)
        ablated = compared(block.ablate())
        return compared(block.reconstruct(sae)) | {f"ablated_{k}": v for k, v in ablated.items()}

    found = {}
    for name, sae in saes.items():
        result = measured(sae) if results is None else results.get(["pictures", sae.identity], measured, sae)
        found[name] = {figure: Interval(*interval) for figure, interval in result.items()}
    return found


def _ranges(steps: Sequence[int]) -> list[tuple[int, int] | None]:
    """Half-open ranges of steps that follow each other, ascending."""
    found: list[tuple[int, int] | None] = []
    for step in sorted(steps):
        if found and found[-1] is not None and found[-1][1] == step:
            found[-1] = (found[-1][0], step + 1)
        else:
            found.append((step, step + 1))
    return found


def faithfulness_table(found: Mapping[str, Mapping[str, Interval]]) -> str:
    """Markdown: one line an SAE."""
    columns = [*FIGURES, *(f"ablated_{name}" for name in FIGURES)]
    head = ["SAE", *(column.replace("_", ", ") for column in columns)]
    return (
        markdown_table(head, [[name, *(str(row[c]) for c in columns)] for name, row in found.items()]) + "\n"
    )
