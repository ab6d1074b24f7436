"""How well SAEs explain what this model computes, beside what was published or recorded of them."""

from collections.abc import Iterator, Mapping
from copy import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unbox.capture import record
from unbox.errors import UnboxError
from unbox.experiments.verify.check_outcome import CheckFinding, not_possible
from unbox.experiments.verify.subject import Subject, each_prompt
from unbox.json_types import JSON
from unbox.sae import SAE, evaluate, load_saes
from unbox.sae.hub_download import download
from unbox.sae.interop import import_all
from unbox.sae.row_source import ArrayRows
from unbox.sae.sae_folder import is_sae

#: The published SAEs of SDXL Turbo ("Unpacking SDXL Turbo", arXiv 2410.22366): where they are, of which base.
REPOSITORY, BASE = "surokpro2/sdxl-saes", "stabilityai/sdxl-turbo"
#: Of those, the ones of which the paper says what they explain at the first step: its k, n and figures.
K, SIZE = 160, 5120
PAPER = {"down.2.1": 0.93, "mid.0": 0.88, "up.0.0": 0.91, "up.0.1": 0.92}
#: What may be explained less than that: the pictures are others, and few.
TOLERANCE = 0.05
#: Pictures whose updates are explained, at most.
IMAGES = 16
#: Images of a batch, while all of their steps are recorded.
BATCH = 2


def explained(subject: Subject) -> CheckFinding:
    """Variance of the first step's updates that the SAEs explain, with 95 % intervals over images."""
    try:
        saes = subject.saes or _published(subject)
    except UnboxError as error:
        return not_possible(f"{error}. Give a copy of {REPOSITORY}, or SAEs of yours, with --saes")
    if not saes:
        return not_possible(f"the published SAEs are of {BASE}; give SAEs of this model with --saes")
    fitting = {name: sae for name, sae in saes.items() if _fits(subject, sae)}
    if not fitting:
        return not_possible(f"no SAE is of a block of this model: {', '.join(saes)}")
    rows = _first_step(subject, tuple(dict.fromkeys(sae.block for sae in fitting.values())))
    figures: dict[str, JSON] = {}
    less, unknown = list[str](), list[str]()
    for name, sae in fitting.items():
        row = _figures(subject, copy(sae).to(subject.model.device), rows[sae.block])
        figures[name] = row
        expected = row["expected"]
        if not isinstance(expected, float):
            unknown.append(name)
        elif float(str(row["explained"])) < expected - TOLERANCE:
            less.append(name)
    said = ", ".join(f"{name} {row['explained']:.3f}" for name, row in figures.items())  # type: ignore[call-overload,index]
    if less:
        return CheckFinding(
            "fail",
            f"explained less than is known of them by over {TOLERANCE}: {', '.join(less)} ({said})",
            figures,
        )
    if unknown:
        reason = f"nothing is known of what {', '.join(unknown)} should explain ({said})"
        return CheckFinding("not possible here", reason, figures)
    return CheckFinding("pass", said, figures)


def _figures(subject: Subject, sae: SAE, rows: Tensor) -> dict[str, JSON]:
    found = evaluate(sae, RecordedRows(rows, sae.block))
    expected, source = _expected(subject, sae)
    # The paper's figure is a mean over channels, ours of all variance.
    value = found.explained_variance_per_channel if source == "paper" else found.explained_variance
    interval = None if found.fvu_interval is None else [1 - fvu for fvu in reversed(found.fvu_interval)]
    return {
        "explained": value,
        "expected": expected,
        "expected_from": source,
        "of_all_variance": found.explained_variance,
        "of_all_variance_interval": interval,
        "k": sae.k,
        "latents": sae.latents,
        "rows": found.rows,
        "l0": found.l0,
        "identity": sae.identity,
    }


def _expected(subject: Subject, sae: SAE) -> tuple[float | None, str]:
    """What is known of how much an SAE explains, and who says so."""
    imported: Mapping[str, str] = sae.meta.get("imported") or {}
    theirs = imported.get("format") == "sdxl-unbox" and (sae.k, sae.latents) == (K, SIZE)
    if theirs and subject.model.system.base == BASE and sae.block in PAPER:
        return PAPER[sae.block], "paper"
    fvu = (sae.meta.get("figures") or {}).get("fvu")
    return (None, "") if fvu is None else (1 - float(fvu), "its training")


def _published(subject: Subject) -> dict[str, SAE]:
    """The published SAEs, fetched or in the Hub's cache; none for other models than theirs."""
    if subject.model.system.base != BASE:
        return {}
    if not subject.fetch:
        raise UnboxError("the published SAEs are not fetched --offline")
    return import_all(download(REPOSITORY, [f"*_k{K}_hidden{SIZE}_*/final/*"]))


def read_saes(folder: Path) -> dict[str, SAE]:
    """SAEs of a folder in our layout, or in another's that `unbox sae import` reads."""
    ours = is_sae(folder) or (folder.is_dir() and any(is_sae(path) for path in folder.iterdir()))
    return dict(load_saes(folder)) if ours else import_all(folder)


def _fits(subject: Subject, sae: SAE) -> bool:
    model = subject.model
    return sae.block in model.blocks and bool(model.block(sae.block).in_channels == sae.width)


def _first_step(subject: Subject, blocks: tuple[str, ...]) -> dict[str, Tensor]:
    """Block -> (image, 1, 1, y, x, d) updates of the first step's conditional branch, on the CPU."""
    kept: dict[str, list[Tensor]] = {block: [] for block in blocks}
    for seeds, prompts in _batches(subject):
        with record(subject.model, blocks) as tape:
            subject.model.generate(prompts, seeds=seeds, output="latent", **subject.run)
        for block in blocks:
            kept[block].append(tape.read(block, branch="cond")[:, :1, None].float())
    return {block: torch.cat(parts) for block, parts in kept.items()}


def _batches(subject: Subject) -> Iterator[tuple[list[int], list[str]]]:
    images = each_prompt(subject, IMAGES)
    for start in range(0, len(images), BATCH):
        seeds, prompts = zip(*images[start : start + BATCH], strict=True)
        yield list(seeds), list(prompts)


class RecordedRows(ArrayRows):
    """Updates (image, step, branch, y, x, d) of a tape as rows of images."""

    def __init__(self, recorded: Tensor, block: str) -> None:
        super().__init__(recorded, block)
        self.recorded = recorded
        self.samples, self.steps, self.branches = range(len(recorded)), (0,), ("cond",)

    def read(self, i: int) -> np.ndarray:
        """(step, branch, y, x, d) of an image."""
        return self.recorded[i].numpy()
