"""Brushes of a Shapes model: vectors, each of which brings one value about where it is painted.

A vector is a factor: features of one SAE, by how much more of each there is where the value is drawn than
where another is. So one brush holds what no single feature does. Saved as a set of directions, whose
strengths are calibrated over the object and tried again on other pictures:

    python -m unbox.recipes.factor_brushes shapes-turbo FOLDER

FOLDER has `saes`; what is collected is kept there, so that the same line goes on after a stop.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from activation_store import Store
from unbox.capture import collect
from unbox.edit import Edits, Feature
from unbox.edits.feature_factors import FeatureFactor, factor_directions
from unbox.errors import UnboxError
from unbox.experiments.critics import critics
from unbox.experiments.feature_strengths import StrengthTrials, Target, write_strengths
from unbox.ground_truth.factor_scores import UpdateRows, scenes_of
from unbox.mask import Mask
from unbox.models import Model, load
from unbox.prompt import Prompt
from unbox.sae import directions_of, load_saes
from unbox.sae.model import SAE
from unbox.shapes import FACTORS, Scene, masks, prompts

#: The factors whose values are brushes, and the block in which each is drawn.
BRUSHED = {"colour": "up.0.1", "texture": "up.0.1"}
#: Pictures of one object that factors are taken from, the seed of their captions, the features of each
#: factor, and the updates that the directions' statistics are taken over.
PICTURES, SEED, FEATURES, ROWS = 600, 21, 48, 20_000
#: The folder of sets of directions and the file of strengths, beside `saes`; the seed of the captions on
#: which strengths are tried again.
BRUSHES, STRENGTHS, HELD_OUT = "brushes", "strengths.json", 1


def value_factors(
    sae: SAE, rows: UpdateRows, scenes: Sequence[Scene], factor: str, count: int = FEATURES
) -> dict[str, FeatureFactor]:
    """Value -> its features: at the places of the objects (of scenes of one) that have it, the mean codes
    less the mean over the other values; the `count` features by which that moves the update furthest.

    rows: those of `scenes`, in order. Raises UnboxError where a value is not shown.
    """
    codes: dict[str, list[np.ndarray]] = defaultdict(list)
    for i, scene in enumerate(scenes):
        codes[scene.factors()[factor]].append(_object_codes(sae, rows.read(i), scene))
    if missing := [value for value in FACTORS[factor] if value not in codes]:
        few = f"collect more than {len(scenes)}"
        raise UnboxError(f"no picture shows the {factor} {', '.join(missing)}: {few}")
    means = {value: np.mean(codes[value], 0) for value in FACTORS[factor]}
    norms, found = sae.W_dec.detach().norm(dim=1).cpu().numpy(), {}
    for value, mean in means.items():
        contrast = mean - np.mean([means[other] for other in means if other != value], 0)
        chosen = np.argsort(-np.abs(contrast) * norms, kind="stable")[:count]
        found[value] = FeatureFactor(sae, tuple(chosen.tolist()), tuple(contrast[chosen].tolist()))
    return found


def _object_codes(sae: SAE, update: np.ndarray, scene: Scene) -> np.ndarray:
    """(latents,) mean code over an update (step, branch, y, x, d), a position by the share of it that the
    object covers."""
    weights = torch.from_numpy(Mask.of(masks(scene)[0]).on(*update.shape[2:4]))
    codes = sae.encode(torch.from_numpy(np.asarray(update, np.float32))).dense(sae.latents).mean((0, 1))
    return (torch.einsum("yx,yxn->n", weights, codes) / weights.sum()).numpy()


def make_brushes(model: Model, saes: Mapping[str, SAE], folder: Path) -> dict[str, SAE]:
    """Sets of directions, by name, in `folder`/brushes: one of each block of `BRUSHED`, of its values."""
    batch = 64 if model.device.type == "cuda" else 16
    blocks, texts = tuple(dict.fromkeys(BRUSHED.values())), prompts(PICTURES, SEED, full=True, pairs=0.0)
    store: Store = collect(model, texts, folder / "brush_store", blocks=blocks, batch_size=batch)
    found, scenes = {}, scenes_of(store)
    for block in blocks:
        factors: dict[str, FeatureFactor] = {}
        for factor in (factor for factor, drawn_in in BRUSHED.items() if drawn_in == block):
            factors |= value_factors(saes[block], store[block], scenes, factor)
        of = factor_directions(list(factors.values()), store[block].sample(ROWS), list(factors))
        of = replace(of, update_std=saes[block].update_std)  # one unit of strength for features and brushes
        of.save(folder / BRUSHES / of.name, overwrite=True)
        found[of.name] = of
    return found


def load_brushes(folder: Path, device: torch.device | str = "cpu") -> dict[str, SAE]:
    """The sets of directions beside the SAEs in a folder, by name; none where there are none."""
    place = folder / BRUSHES
    return {sae.name: sae for sae in load_saes(place, device).values()} if place.is_dir() else {}


def calibrate_brushes(model: Model, folder: Path, factors: Sequence[str] = tuple(BRUSHED)) -> Path:
    """`strengths.json` in `folder`: at which strength over the object each brush brings its value about, and
    what that does in pictures of other captions. Two to three minutes of a core for each."""
    batch, critic = 64 if model.device.type == "cuda" else 8, critics()["shapes"]

    def draw(
        some: Sequence[Prompt], seeds: Sequence[int], edits: Sequence[Edits] | None
    ) -> list[Image.Image]:
        texts = [prompt.text for prompt in some]
        images: list[Image.Image] = model.generate(texts, seeds=list(seeds), edits=edits, batch_size=batch)
        return images

    trials = StrengthTrials(draw, critic, place="object")
    held_out = StrengthTrials(draw, critic, place="object", seed=HELD_OUT)
    write_strengths(folder / STRENGTHS, trials, _targets(load_brushes(folder), factors), held_out)
    return folder / STRENGTHS


def _targets(brushes: Mapping[str, SAE], factors: Sequence[str]) -> Iterator[tuple[str, Feature, Target]]:
    """Every brush of the factors by name, with the value that it is called by."""
    of = {value: factor for factor in factors for value in FACTORS[factor]}
    for name, sae in brushes.items():
        for index, each in enumerate(directions_of(sae)):
            if each.label in of:
                yield f"{name}/{index}", sae.feature(index), (of[each.label], each.label)


def main() -> None:
    """Brushes and their strengths of SAEs that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="a model that draws the Shapes world")
    parser.add_argument("folder", type=Path, help="a folder with its `saes`; brushes come beside them")
    parser.add_argument("--device", help="where to compute: cuda or cpu")
    asked = parser.parse_args()
    # As a CPU loads it: what is brought is of the same model wherever it is made.
    model = load(asked.model, device=asked.device, dtype="float32")
    make_brushes(model, load_saes(asked.folder / "saes"), asked.folder)
    calibrate_brushes(model, asked.folder)


if __name__ == "__main__":
    main()
