"""A preference that no caption says, for the grid of recipes: pictures of one light are preferred.

Winner and loser of a pair are one scene under a caption that leaves the light open; the winner is bright, the
loser has another light. How often a model draws bright pictures where captions leave it open is what a
preference method should move, and there is room: the model itself follows its captions too well to be
preferred for that.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.recipe_figures import JUDGE, kept, seen
from unbox.models.model import Model
from unbox.prompt import Prompt
from unbox.shapes import FACTORS, Scene, caption, prompts, sample_scene, scene_rng
from unbox.shapes.detector import HEADS
from unbox.shapes.render_torch import draw
from unbox.shapes.scene_table import SceneTable

#: What is preferred.
FACTOR, PREFERRED = "light", "bright"
#: Held-out captions that leave it open, and seeds of each.
CAPTIONS, DRAWN = 24, 2


def open_scenes() -> Iterator[tuple[str, Scene, Scene]]:
    """Captions that do not say the light, with the preferred scene and the one of another light."""
    index = 0
    while True:
        rng = scene_rng(8, index, "train")
        index += 1
        scene = sample_scene(rng, "train")
        said, mentioned = caption(scene, rng, "train", full=False)
        if FACTOR not in mentioned:
            other = str(rng.choice([value for value in FACTORS[FACTOR] if value != PREFERRED]))
            yield said, scene.with_factor(FACTOR, PREFERRED), scene.with_factor(FACTOR, other)


def taste_images(preferred: Path, others: Path, count: int, side: int) -> None:
    """Pairs under one name and caption in two folders; files that are there stay."""
    for folder in (preferred, others):
        folder.mkdir(parents=True, exist_ok=True)
    for i, (said, *scenes) in zip(range(count), open_scenes(), strict=False):
        for folder, scene in zip((preferred, others), scenes, strict=True):
            if not (text := folder / f"{i:06d}.txt").is_file():
                pixels = draw(SceneTable.of([scene]), side).pictures[0].permute(1, 2, 0).numpy()
                Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(folder / f"{i:06d}.png")
                text.write_text(said)


def open_prompts(count: int = CAPTIONS) -> list[Prompt]:
    """Held-out captions that do not say the light."""
    asked = prompts(20 * count, seed=96, split="heldout", full=False)
    return [prompt for prompt in asked if FACTOR not in prompt.meta["mentioned"]][:count]


def taste_chances(file: Path, model: Model, steps: int, guidance: float) -> np.ndarray:
    """(captions, `DRAWN`, lights) the judge's probabilities of each light in a model's pictures, drawn
    once and kept in `file`."""
    if not file.is_file():
        texts = [prompt.text for prompt in open_prompts() for _ in range(DRAWN)]
        images = model.generate(texts, seeds=list(range(len(texts))), steps=steps, guidance=guidance)
        pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
        part = file.with_suffix(".part.npz")
        np.savez_compressed(part, pictures=pixels)
        part.replace(file)
    with np.load(file) as arrays:
        chances = seen(JUDGE, arrays["pictures"])[1][FACTOR]
    return chances.reshape(-1, DRAWN, chances.shape[-1])


def taste_figures(chances: np.ndarray, rival: np.ndarray) -> dict[str, list[float]]:
    """preferred: share of each caption's pictures that are read as preferred. wins: share of its seeds in
    which the preferred light is likelier than in the rival's picture (half where they are equal)."""
    at = HEADS[FACTOR].index(PREFERRED)
    own, other = chances[..., at], rival[..., at]
    return {
        "preferred": kept((chances.argmax(-1) == at).mean(1)),
        "wins": kept(np.where(own == other, 0.5, own > other).mean(1)),
    }
