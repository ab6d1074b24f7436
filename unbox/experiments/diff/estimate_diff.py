"""What a comparison would take: a few images of each system, a few steps of training, and arithmetic."""

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path

import numpy as np
import torch

from unbox.capture.collect_settings import schema_of
from unbox.capture.estimate import Estimate, estimate, time_text
from unbox.errors import UnboxError
from unbox.experiments.diff.compared_stores import DrawnSystems, collect_settings
from unbox.experiments.diff.run_diff import DiffRun
from unbox.memory_limit import size_text
from unbox.sae import Plan, specs
from unbox.sae.initialization import measure
from unbox.sae.row_source import ArrayRows
from unbox.sae.training_run import TrainingRun

#: Steps of training that are timed, after as many to warm up.
STEPS = 3
#: Bytes of a latent's numbers: weights of an SAE, and with both moments in a checkpoint.
SAE_BYTES, CHECKPOINT_BYTES = 2 * 4, 6 * 4


@dataclass(frozen=True)
class DiffEstimate:
    """A plan for comparing, from what was tried on this machine."""

    stores: Mapping[str, Estimate]
    """System -> its store."""
    sets: int
    """Sets of SAEs that are trained; a crosscoder counts as two."""
    tokens: int
    """Rows that the SAEs of one set see, over all blocks."""
    seconds_per_row: float
    """Of training, an SAE."""
    encoded: int
    """Held-out rows that are encoded, of all systems, blocks and sets."""
    seconds_per_encoded: float
    sae_bytes: int
    """On disk: finished SAEs and two checkpoints of a set."""
    training_bytes: int
    """Memory of training a set, on its device."""
    figures_bytes: int
    """Memory of a block's figures."""

    @property
    def bytes_in_all(self) -> int:
        """On disk."""
        return sum(each.bytes_in_all for each in self.stores.values()) + self.sae_bytes

    @property
    def seconds(self) -> float:
        """Of all of it, on one device."""
        drawing = sum(each.seconds() for each in self.stores.values())
        return drawing + self.training_seconds + self.encoding_seconds

    @property
    def training_seconds(self) -> float:
        """Of all sets."""
        return self.sets * self.tokens * self.seconds_per_row

    @property
    def encoding_seconds(self) -> float:
        """Of the held-out rows."""
        return self.encoded * self.seconds_per_encoded

    def lines(self) -> list[str]:
        """The plan in words."""
        found = [
            f"{name}: {size_text(each.bytes_in_all)} on disk, {time_text(each.seconds())} to draw "
            f"{each.images:,} images"
            for name, each in self.stores.items()
        ]
        return [
            *found,
            f"training {self.sets} set{'s' * (self.sets > 1)} of SAEs on {self.tokens:,} rows: "
            f"{time_text(self.training_seconds)}, {size_text(self.training_bytes)} of memory; "
            f"{size_text(self.sae_bytes)} on disk",
            f"encoding {self.encoded:,} held-out rows for the figures: "
            f"{time_text(self.encoding_seconds)}; {size_text(self.figures_bytes)} of memory",
            f"in all {size_text(self.bytes_in_all)} on disk and {time_text(self.seconds)}",
        ]


def estimate_diff(run: DiffRun, beside: Path | None) -> DiffEstimate:
    """Draw and write a few images of each system, train and encode for a moment on made-up rows.

    Raises UnboxError for stores that are there: nothing is drawn."""
    if not isinstance(run.source, DrawnSystems):
        raise UnboxError("a dry run is of systems that are drawn; these stores are there already")
    settings, total = run.settings, len(run.source.prompts)
    stores, rows = dict[str, Estimate](), dict[str, dict[str, int]]()
    widths = dict[str, int]()
    for system in run.source.systems:
        model, own = run.source.load(system), collect_settings(system, settings)
        schema = schema_of(model, own)
        widths = {block: schema.blocks[block][2] for block in settings.blocks}
        rows[system.title] = {block: prod(schema.shape(block, 1)[1:-1]) for block in settings.blocks}
        stores[system.title] = estimate(model, run.source.prompts, beside=beside, limit=total, **vars(own))
        del model
    sets = int(run.saes is None) + len(rows) * settings.alone
    sets += 2 * (len(rows) - 1) * settings.crosscoders  # whose rows are twice as wide
    most = {block: max(each[block] for each in rows.values()) for block in settings.blocks}
    learned = total * (1 - settings.held_out)
    usual = sum(ceil(learned * most[block]) * len(rows) for block in settings.blocks)
    held = total * settings.held_out * sum(sum(each.values()) for each in rows.values())
    # Each row is encoded once for its changes, and once for how much of it every set explains.
    encoded = ceil(held * (1 + max(1, sets)))
    plan = Plan(
        saes=specs(settings.blocks, k=settings.k, latents=settings.latents, seed=settings.seed),
        batch_size=settings.rows,
        tokens=settings.tokens,
    )
    trained, read = _seconds(plan, widths, run.device)
    weights = sum(settings.latents * width for width in widths.values())
    return DiffEstimate(
        stores=stores,
        sets=sets,
        tokens=usual if settings.tokens is None else settings.tokens * len(settings.blocks),
        seconds_per_row=trained,
        encoded=encoded,
        seconds_per_encoded=read,
        sae_bytes=sets * weights * SAE_BYTES + (weights * 2 * CHECKPOINT_BYTES if sets else 0),
        training_bytes=plan.memory(widths),
        figures_bytes=(len(rows) * settings.flips + 4 * settings.splits) * settings.latents * 8,
    )


def _seconds(plan: Plan, widths: Mapping[str, int], device: str | None) -> tuple[float, float]:
    """Seconds of training for a row of one block, and of encoding one: on noise, all blocks together."""
    rng = np.random.default_rng(0)
    size = plan.batch_size
    some = {b: ArrayRows(rng.standard_normal((size, d)).astype(np.float32), b) for b, d in widths.items()}
    starts = {b: measure(r, plan.seed, plan.centre, plan.init, plan.scaled) for b, r in some.items()}
    short = Plan(saes=plan.saes, batch_size=size, tokens=size * 2 * STEPS, warmup=0, decay=0)
    marks = []
    with closing(TrainingRun(short, some, device, starts)) as training:
        lane = next(iter(training.lanes.values()))
        for end in (size * STEPS, size * 2 * STEPS):
            while lane.left and lane.done < end:
                training.advance()
            if training.device.type == "cuda":
                torch.cuda.synchronize(training.device)
            marks.append(time.perf_counter())
        fits = [fit for each in training.lanes.values() for fit in each.fits]
        saes = training.finished(fits)
    start = time.perf_counter()
    for sae in saes:
        sae.encode(torch.from_numpy(some[sae.block].array).to(sae.device)).values.cpu()
    stop = time.perf_counter()
    rows = size * len(widths)
    return (marks[1] - marks[0]) / (STEPS * rows), (stop - start) / rows
