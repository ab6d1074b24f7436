"""What a Shapes model can do, measured: factors right, sharpness, what seeds decide."""

import time
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from activation_store.files import write_json, write_text
from unbox.prompt import Prompt
from unbox.shapes import Scene, prompts, render
from unbox.shapes.detector import HEADS, Detector, accuracy


def draw(
    pipeline: StableDiffusionXLPipeline,
    texts: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    guidance: float = 0.0,
    batch: int = 32,
) -> list[Image.Image]:
    """One 64x64 picture per text, each from its own seed."""
    pipeline.set_progress_bar_config(disable=True)
    images: list[Image.Image] = []
    for i in range(0, len(texts), batch):
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds[i : i + batch]]
        images += pipeline(
            list(texts[i : i + batch]),
            height=64,
            width=64,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
        ).images
    return images


def sharpness(images: Sequence[Image.Image | np.ndarray]) -> float:
    """Mean size of the discrete Laplacian: what blur takes away first."""
    arrays = [np.asarray(image, np.float32) for image in images]
    changes = [4 * x[1:-1, 1:-1] - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:] for x in arrays]
    return float(np.mean([float(np.abs(change).mean()) for change in changes]))


def skill(
    pipeline: StableDiffusionXLPipeline,
    detector: Detector,
    steps: int,
    n: int,
    guidance: float,
    seed: int = 100,
) -> dict[str, Any]:
    """Accuracy per factor on held-out captions (looks and wordings never trained on), full and partial."""
    result: dict[str, Any] = {"steps": steps, "guidance": guidance, "captions": n}
    for kind, full in (("full", True), ("partial", False)):
        captions: list[Prompt] = prompts(n, seed, "heldout", full)
        images = draw(pipeline, [p.text for p in captions], range(n), steps, guidance)
        scenes = [Scene.from_json(p.meta["scene"]) for p in captions]
        shown = ["relation", *(["0.position", "1.position"] if full else [])]
        mentioned = [[*p.meta["mentioned"], *shown] for p in captions]
        result[kind] = accuracy(detector, images, scenes, mentioned)
        if full:
            result["sharpness"] = sharpness(images) / sharpness([render(scene) for scene in scenes])
    return result


#: Captions that leave one factor open, to see whether the seed decides it.
OPEN = {
    "0.colour": "a large solid circle in the center on a gray background, bright light",
    "0.shape": "a large solid red object in the center on a gray background, bright light",
    "0.texture": "a large red square in the center on a gray background, bright light",
    "0.size": "a solid red circle in the center on a gray background, bright light",
    "0.position": "a large solid red circle on a gray background, bright light",
    "background": "a large solid red circle in the center, bright light",
    "light": "a large solid red circle in the center on a gray background",
}


def openness(
    pipeline: StableDiffusionXLPipeline, detector: Detector, steps: int, n: int = 32
) -> dict[str, dict[str, float]]:
    """For each factor left open: how definite the outcome is, and how often two seeds differ.

    `definite` is the share of pictures in which the detector gives one value more than 0.8;
    `differ` the share of pairs of seeds with different values; `chance` what independent draws
    from the training prior would give.
    """
    result = {}
    for head, text in OPEN.items():
        images = draw(pipeline, [text] * n, range(n), steps)
        p = detector.probabilities(images)[head]
        values = p.argmax(-1).tolist()
        result[head] = {
            "definite": float((p.max(-1) > 0.8).mean()),
            "differ": float(np.mean([a != b for a, b in combinations(values, 2)])),
            "chance": 1 - 1 / len(HEADS[head]),
            "values": len(Counter(values)),
        }
    return result


def table(report: dict[str, Any]) -> str:
    """A report as Markdown."""
    rows = [["steps", "guidance", "captions", *report["skill"][0]["full"], "sharpness"]]
    for row in report["skill"]:
        for kind in ("full", "partial"):
            sharp = f"{row['sharpness']:.2f}" if kind == "full" else ""
            cells = [f"{value:.3f}" for value in row[kind].values()]
            rows.append([str(row["steps"]), f"{row['guidance']:g}", kind, *cells, sharp])
    opened = [["left open (steps)", "definite", "two seeds differ", "independent draws"]]
    for steps, heads in report["open"].items():
        for head, row in heads.items():
            cells = [f"{row[name]:.2f}" for name in ("definite", "differ", "chance")]
            opened.append([f"{head.removeprefix('0.')} ({steps})", *cells])
    return f"{_markdown(rows)}\n\n{_markdown(opened)}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest])


#: How each model is measured: (steps, guidance) of each row, and the steps at which openness is measured.
MEASURED: dict[str, tuple[list[tuple[int, float]], list[int]]] = {
    "shapes-turbo": ([(1, 0.0), (2, 0.0), (4, 0.0)], [1, 4]),
    "shapes-base": ([(20, 1.0), (20, 2.0)], [20]),
}

_TEXT = Path(__file__).parent / "cards"


def write_card(folder: Path, detector: Detector, captions: int = 512) -> dict[str, Any]:
    """Measure the exported model in `folder` (its name says which) and write `skill.json` and `README.md`."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32)
    settings, opened = MEASURED[folder.name]
    report: dict[str, Any] = {
        "skill": [
            skill(pipeline, detector, steps, captions, guidance) | {"seconds": seconds(pipeline, steps)}
            for steps, guidance in settings
        ],
        "open": {str(steps): openness(pipeline, detector, steps) for steps in opened},
    }
    write_json(folder / "skill.json", report)
    template = (_TEXT / f"{folder.name}.md").read_text(encoding="utf-8")
    write_text(folder / "README.md", template.replace("{table}", table(report)))
    return report


def seconds(pipeline: StableDiffusionXLPipeline, steps: int, repeats: int = 5) -> float:
    """Median time of one image alone, in seconds, on this machine."""
    times = []
    for i in range(repeats + 1):
        start = time.perf_counter()
        draw(pipeline, [OPEN["light"]], [i], steps)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))
