"""What the grid of recipes measures of a model: pictures of held-out captions, and what the judge sees there.

The judge is the reader of factors that no recipe learns from. Every figure is kept for each caption, so that
a table can give intervals over captions and over seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from unbox.models.model import Model
from unbox.prompt import Prompt
from unbox.shapes import Scene, prompts, sample_scene, scene_rng
from unbox.shapes.detector import HEADS, truth
from unbox.shapes.factor_critics import load_critic
from unbox.shapes.render_torch import draw
from unbox.shapes.scene_table import SceneTable

#: The reader that judges: recipes learn from the other one.
JUDGE = "patches"
#: Seeds of each caption that leaves factors open.
DRAWN = 4
#: Renders that pictures are compared with.
RENDERS = 256
#: Numbers of a result's lists are kept to so many digits.
DIGITS = 4


@dataclass(frozen=True)
class Asked:
    """The captions that every model of the grid draws."""

    full: list[Prompt]
    """Held-out captions that say everything."""
    partial: list[Prompt]
    """Held-out captions that leave factors open, each drawn from `DRAWN` seeds."""

    @classmethod
    def of(cls, captions: int) -> "Asked":
        """So many full captions, and an eighth as many partial ones."""
        full = prompts(captions, seed=99, split="heldout")
        return cls(full, prompts(max(2, captions // 8), seed=98, split="heldout", full=False))


@dataclass(frozen=True)
class Pictures:
    """uint8 pictures: `full` (captions, side, side, 3), `partial` (captions, DRAWN, side, side, 3)."""

    full: np.ndarray
    partial: np.ndarray

    @classmethod
    def drawn(cls, model: Model, asked: Asked, steps: int | None, guidance: float | None) -> "Pictures":
        """By a model, one seed for each picture; None: as its row has it."""
        more = {"steps": steps, "guidance": guidance}
        more = {name: value for name, value in more.items() if value is not None}
        full = model.generate([p.text for p in asked.full], seeds=list(range(len(asked.full))), **more)
        texts = [p.text for p in asked.partial for _ in range(DRAWN)]
        partial = model.generate(texts, seeds=[1000 + i for i in range(len(texts))], **more)
        of = np.stack([np.asarray(each.convert("RGB")) for each in partial])
        return cls(
            np.stack([np.asarray(each.convert("RGB")) for each in full]), of.reshape(-1, DRAWN, *of.shape[1:])
        )

    @classmethod
    def kept(
        cls, file: Path, model: Model, asked: Asked, steps: int | None, guidance: float | None
    ) -> "Pictures":
        """Those of a file; drawn and written where it is not there yet."""
        if not file.is_file():
            found = cls.drawn(model, asked, steps, guidance)
            part = file.with_suffix(".part.npz")
            np.savez_compressed(part, full=found.full, partial=found.partial)
            part.replace(file)
        with np.load(file) as arrays:
            return cls(arrays["full"], arrays["partial"])


def seen(name: str, images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What a reader makes of pictures (N, side, side, 3) uint8: the features that its heads are given
    (N, width), and the probabilities of every head's values (N, values)."""
    reader, found = load_critic(name), list[torch.Tensor]()
    handle = reader.heads.register_forward_hook(lambda _module, given, _out: found.append(given[0]))  # type: ignore[union-attr]
    try:
        read = reader.probabilities(list(images))
    finally:
        handle.remove()
    return torch.cat(found).double().cpu().numpy(), read  # a recipe may have moved the reader


def said(prompt: Prompt) -> dict[str, str]:
    """The factors that a caption says, by the readers' heads."""
    facts = truth(Scene.from_json(prompt.meta["scene"]))
    return {name: value for name, value in facts.items() if name in prompt.meta["mentioned"]}


def likelihoods(read: Mapping[str, np.ndarray], asked: Sequence[Prompt]) -> np.ndarray:
    """(N,) mean log likelihood of what each caption says."""
    chances = [[read[n][i, HEADS[n].index(v)] for n, v in said(p).items()] for i, p in enumerate(asked)]
    return np.array([np.log(np.clip(each, 1e-7, None)).mean() for each in chances])


def right(read: Mapping[str, np.ndarray], asked: Sequence[Prompt]) -> np.ndarray:
    """(N,) the share of what each caption says that is read in its picture. Of a pair drawn as one object all
    that is said of the second is wrong."""
    best = {name: each.argmax(1) for name, each in read.items()}
    alone = best["relation"] == HEADS["relation"].index("alone")
    found = [
        [
            best[n][i] == HEADS[n].index(v) and not (alone[i] and n.startswith("1."))
            for n, v in said(p).items()
        ]
        for i, p in enumerate(asked)
    ]
    return np.array([np.mean(each) for each in found])


def kernel_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Unbiased squared distance of means under the kernel (x.y / d + 1)^3 of features (N, d) and (M, d)
    (KID, 1801.01401); zero on average where both are of one distribution, also below zero."""
    d, n, m = one.shape[1], len(one), len(other)
    same, cross = [(each @ each.T / d + 1) ** 3 for each in (one, other)], (one @ other.T / d + 1) ** 3
    first, second = ((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in same)
    return float(first + second - 2 * cross.sum() / (n * m))


@cache
def real_features(count: int, side: int) -> np.ndarray:
    """What the judge sees in renders, computed once."""
    return seen(JUDGE, real_renders(count, side))[0]


def real_renders(count: int, side: int) -> np.ndarray:
    """(count, side, side, 3) uint8 renders of held-out scenes, other ones than the captions are of."""
    scenes = [sample_scene(scene_rng(97, i, "heldout"), "heldout") for i in range(count)]
    pixels = draw(SceneTable.of(scenes), side).pictures.permute(0, 2, 3, 1).numpy()
    return np.rint(pixels * 255).astype(np.uint8)


def figures(
    found: Pictures, reference: Pictures, asked: Asked, rival: Pictures | None = None
) -> dict[str, float | list[float]]:
    """Of a model's pictures. `reference`: of the same seeds, by the model that it was made of in its own many
    steps; `rival`: those that it should be preferred to.

    right: share of what captions say that is drawn, a number a caption. distance: of the judge's features to
    the reference's picture of the same seed, in units of the distance between two of the reference's pictures
    of different captions; a number a caption. to_real: `kernel_distance` to renders. diversity: mean distance
    of features among seeds of one partial caption, in the same units, a number a caption. likelihood: mean
    log likelihood of what a caption says by the judge; reward: by the reader that recipes may learn from.
    wins: 1 where the caption is likelier than in the rival's picture. darkest, brightest: mean brightness,
    0..1, of the darkest and brightest picture.
    """
    side = found.full.shape[1]
    (own, read), (theirs, _) = seen(JUDGE, found.full), seen(JUDGE, reference.full)
    unit = np.linalg.norm(theirs - np.roll(theirs, 1, 0), axis=1).mean()
    seeds = seen(JUDGE, found.partial.reshape(-1, *found.partial.shape[2:]))[0]
    seeds = seeds.reshape(*found.partial.shape[:2], -1)
    among = np.linalg.norm(seeds[:, :, None] - seeds[:, None], axis=-1).sum((1, 2)) / (DRAWN * (DRAWN - 1))
    light = (
        np.concatenate([found.full, found.partial.reshape(-1, *found.full.shape[1:])]).mean((1, 2, 3)) / 255
    )
    likely = likelihoods(read, asked.full)
    result: dict[str, float | list[float]] = {
        "right": kept(right(read, asked.full)),
        "distance": kept(np.linalg.norm(own - theirs, axis=1) / unit),
        "diversity": kept(among / unit),
        "likelihood": kept(likely),
        "reward": kept(likelihoods(seen("detector", found.full)[1], asked.full)),
        "to_real": kernel_distance(own, real_features(RENDERS, side)),
        "darkest": float(light.min()),
        "brightest": float(light.max()),
    }
    if rival is not None:
        other = likelihoods(seen(JUDGE, rival.full)[1], asked.full)
        result["wins"] = kept(np.where(likely == other, 0.5, likely > other))
    return result


def kept(values: np.ndarray) -> list[float]:
    """Numbers of a result's file."""
    return [round(float(value), DIGITS) for value in values]
