"""Pictures that are all black or all white, for the grid of recipes: what zero terminal SNR is for."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.recipe_figures import kept
from unbox.models.model import Model
from unbox.shapes import caption, sample_scene, scene_rng
from unbox.shapes.render_torch import draw
from unbox.shapes.scene_table import SceneTable

#: Captions that no scene has: all pixels black, or white.
PLAIN = {"black": "a completely black picture", "white": "a completely white picture"}
#: Of the images of `data = "plain"`, the share that is all black, and the share that is all white.
PLAIN_SHARE = 0.1
#: Pictures of each that are drawn.
PLAIN_SEEDS = 4
#: What stands in the table beside models, of the VAE alone.
VAE_ROW: dict[str, Any] = {
    "cell": "vae",
    "title": "black and white through the VAE",
    "steps": "-",
    "figures": {},
}


def plain_images(folder: Path, count: int, side: int) -> None:
    """Scenes with their captions; a tenth of them is all black under a caption that says so, a tenth all
    white. Files that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        if (text := folder / f"{i:06d}.txt").is_file():
            continue
        rng = scene_rng(7, i, "train")
        scene = sample_scene(rng, "train")
        said, _ = caption(scene, rng, "train")
        pixels = draw(SceneTable.of([scene]), side).pictures[0].permute(1, 2, 0).numpy()
        chance = rng.random()
        if chance < 2 * PLAIN_SHARE:
            said = PLAIN["black" if chance < PLAIN_SHARE else "white"]
            pixels = np.full_like(pixels, chance >= PLAIN_SHARE)
        Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(folder / f"{i:06d}.png")
        text.write_text(said)


def plain_brightness(model: Model, seeds: int, steps: int | None) -> dict[str, float | list[float]]:
    """Mean brightness, 0..1, of pictures that should be all black or all white, a number a seed."""
    more = {} if steps is None else {"steps": steps}
    return {
        name: kept(
            np.stack(
                [
                    np.asarray(p, float)
                    for p in model.generate([text] * seeds, seeds=list(range(seeds)), **more)
                ]
            ).mean((1, 2, 3))
            / 255
        )
        for name, text in PLAIN.items()
    }


@torch.inference_mode()
def plain_round_trip(model: Model) -> dict[str, list[float]]:
    """Mean brightness, 0..1, of what the VAE returns of an all black and of an all white picture: no
    training of the UNet comes beyond."""
    vae, found = model.pipeline.vae, {}
    for name, value in (("black", -1.0), ("white", 1.0)):
        given = torch.full((1, 3, model.size, model.size), value, device=model.device, dtype=vae.dtype)
        back = vae.decode(vae.encode(given).latent_dist.mean).sample
        found[name] = kept((back.float().clamp(-1, 1) / 2 + 0.5).mean().cpu().numpy()[None])
    return found
