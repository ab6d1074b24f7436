"""The training set on a device: scenes, fresh captions, latents at several sizes and crops."""

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from unbox.models.bf16_support import bf16_products
from unbox.prompt import Prompt
from unbox.recipes.shapes.networks import LATENT, SIDE
from unbox.shapes import FACTORS, OBJECT_FACTORS, Scene, Split, caption
from unbox.shapes.detector import HEADS
from unbox.shapes.free_captions import free_caption
from unbox.shapes.render_torch import draw
from unbox.shapes.scene_table import SceneTable, sample_table

#: Share of captions in `captions.caption`'s plain sentences; the others are in people's own wordings.
PLAIN = 0.25
#: Captions that a worker writes at a time.
CHUNK = 5000
NAMES = tuple(HEADS)


@dataclass(frozen=True)
class Captioned:
    """Captions of one table of scenes and, (n, heads) bool, which of `HEADS` each mentions."""

    texts: list[str]
    mentioned: np.ndarray


@dataclass(frozen=True)
class CaptionJob:
    """Captions of the scenes start..start+count of the table of `n` scenes of a seed; `copy` numbers the
    sets of captions of one table; shares `full` (mentions everything) and `plain` (in plain sentences)."""

    seed: int
    n: int
    start: int
    count: int
    copy: int = 0
    split: Split = "train"
    full: float = 0.5
    plain: float = PLAIN
    only: tuple[str, ...] = ()
    """Factors that may be mentioned; none named: all (plain sentences then are not used)."""

    def write(self) -> Captioned:
        table = sample_table(self.n, self.seed, self.split)
        rng = random.Random(f"{self.seed} {self.n} {self.start} {self.copy} {self.split}")
        numbers = np.random.default_rng([self.seed, self.start, self.copy])
        texts, mentioned = [], np.zeros((self.count, len(NAMES)), bool)
        for i in range(self.count):
            scene, whole = table.scene(self.start + i), rng.random() < self.full
            if not self.only and rng.random() < self.plain:
                text, said = caption(scene, numbers, self.split, whole)
            else:
                text, said = free_caption(scene, rng, self.split, whole, only=self.only)
            texts.append(text)
            mentioned[i] = [name in said for name in NAMES]
        return Captioned(texts, mentioned)


def all_captions(
    seed: int, n: int, copies: int = 1, workers: int = 1, first: int | None = None, only: tuple[str, ...] = ()
) -> Captioned:
    """Captions of a table of `n` training scenes (of the `first` of them), `copies` of each, set after set,
    that mention `only` some factors if any are named; the same for a seed whatever the number of workers."""
    count = n if first is None else min(first, n)
    jobs = [
        CaptionJob(seed, n, i, min(CHUNK, count - i), copy, only=only)
        for copy in range(copies)
        for i in range(0, count, CHUNK)
    ]
    if workers == 1:
        parts = [job.write() for job in jobs]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            parts = list(pool.map(CaptionJob.write, jobs))
    return Captioned([t for p in parts for t in p.texts], np.concatenate([p.mentioned for p in parts]))


def targets(table: SceneTable) -> np.ndarray:
    """(n, heads): the index of each head's value; -100 for the second object of a scene of one."""
    columns = {name: getattr(table, name) for name in ("relation", "background", "light")}
    for slot in (0, 1):
        for j, factor in enumerate(OBJECT_FACTORS):
            codes = table.objects[:, slot, j]
            columns[f"{slot}.{factor}"] = codes if slot == 0 else np.where(table.relation > 0, codes, -100)
    return np.stack([columns[name] for name in NAMES], 1)


def of_prompts(prompts: Sequence[Prompt]) -> tuple[SceneTable, Captioned]:
    """The scenes and captions of prompts that `unbox.shapes.prompts` gave."""
    scenes = [Scene.from_json(p.meta["scene"]) for p in prompts]
    said = np.array([[name in p.meta["mentioned"] for name in NAMES] for p in prompts])
    return SceneTable.of(scenes), Captioned([p.text for p in prompts], said)


def pictures(table: SceneTable, device: torch.device, chunk: int = 512) -> Iterator[tuple[Tensor, Tensor]]:
    """Plain pictures (b, 3, 128, 128) in 0..1 and their coverage (b, 2, 128, 128), chunk by chunk."""
    for i in range(0, len(table), chunk):
        drawn = draw(table[np.arange(i, min(i + chunk, len(table)))], SIDE, device=device)
        yield drawn.pictures, drawn.coverage


@dataclass(frozen=True)
class Latents:
    """On a device: x0 (n, 4, 32, 32) float16, objects (n, 1, 32, 32) uint8 share of each place, sizes (n, 6):
    original height and width, top and left of the crop, target height and width in pixels."""

    x0: Tensor
    objects: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.x0)


def views(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How each picture is seen: original side (n,) in pixels, crop's corner (n, 2) in pixels.

    Seven in ten plainly; the others made from a smaller original, or cut out of a scene shifted up and left.
    """
    rng = np.random.default_rng([seed, 5])
    kind = rng.random(n)
    side = np.where(kind > 0.85, rng.choice([32, 48, 64, 96], size=n), SIDE)
    corner = np.where(kind[:, None] < 0.15, rng.integers(0, 49, size=(n, 2)) * (rng.random((n, 2)) < 0.75), 0)
    return side, corner


@torch.no_grad()
def encode_views(
    vae: AutoencoderKL, table: SceneTable, seed: int, device: torch.device, chunk: int = 512
) -> Latents:
    """Draw each scene as `views` has it, and encode: normalised latents."""
    sides, corners = views(len(table), seed)
    mean, std = (
        torch.tensor(getattr(vae.config, k), device=device).view(1, 4, 1, 1)
        for k in ("latents_mean", "latents_std")
    )
    x0 = torch.empty(len(table), 4, LATENT, LATENT, dtype=torch.float16, device=device)
    objects = torch.empty(len(table), 1, LATENT, LATENT, dtype=torch.uint8, device=device)
    order = np.argsort(sides, kind="stable")
    for value in np.unique(sides):
        same = order[sides[order] == value]
        for i in range(0, len(same), chunk):
            rows = same[i : i + chunk]
            corner = torch.from_numpy(corners[rows]).float().to(device) * 64 / SIDE
            drawn = draw(table[rows], SIDE, corner, device)
            picture = resized(drawn.pictures, int(value))
            with bf16_products(device):
                latents = vae.encode(picture * 2 - 1).latent_dist.mode()
            where = torch.from_numpy(rows).to(device)
            x0[where] = ((latents.float() - mean) / std).half()
            share = F.avg_pool2d(drawn.coverage.sum(1, keepdim=True).clamp(max=1), SIDE // LATENT)
            objects[where] = (share * 255).round().to(torch.uint8)
    full = np.full((len(table), 2), SIDE)
    sizes = np.concatenate([np.stack([sides, sides], 1), corners, full], 1).astype(np.float32)
    return Latents(x0, objects, torch.from_numpy(sizes).to(device))


def resized(picture: Tensor, side: int) -> Tensor:
    """As if made from an original of `side` pixels: averaged down, then drawn large again."""
    if side == picture.shape[-1]:
        return picture
    small = F.interpolate(picture, size=(side, side), mode="area")
    return F.interpolate(small, size=picture.shape[-2:], mode="bilinear", align_corners=False)


def layout(coverage: Tensor) -> Tensor:
    """Which slot covers each of 8x8 cells, (b, 64): -1 for background; from coverage (b, 2, side, side)."""
    share = F.avg_pool2d(coverage, coverage.shape[-1] // 8)
    return torch.where(share.amax(1) > 0.4, share.argmax(1), -1).flatten(1)


def values(head: str) -> int:
    """How many values a head tells apart."""
    return len(FACTORS[head.split(".")[-1]])
