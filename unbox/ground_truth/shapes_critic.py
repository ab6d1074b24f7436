"""The Shapes world as a critic of experiments: what its detector reads, where its scenes have things, and how
little its second critic can place a picture."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from annotated_types import Ge, Lt
from PIL import Image

from unbox.errors import UnboxError
from unbox.experiments.critics import Critic, Figures, ImagePair, register_critic
from unbox.ground_truth.artifacts import CRITIC, strangeness
from unbox.ground_truth.effects import readings
from unbox.ground_truth.setting_rules import CAPTION_BYTES
from unbox.mask import Mask
from unbox.memory_limit import require
from unbox.prompt import Prompt
from unbox.shapes import FACTORS, OBJECT_FACTORS, Scene, Split, prompts
from unbox.shapes.detector import Detector
from unbox.shapes.factor_critics import load_critic
from unbox.shapes.where import place_mask
from unbox.validation import Seed, Share, Whole, validated


def factors(pairs: Sequence[ImagePair]) -> list[Figures]:
    """What the Shapes detector reads: `changed`, the share of factors (other than the target) whose reading
    changed; with a target `success`, whether its value is read afterwards, and `had`, whether before."""
    detector = Detector.load()
    before = readings(detector, [p.before for p in pairs])
    after = readings(detector, [p.after for p in pairs])
    rows = []
    for pair, b, a in zip(pairs, before, after, strict=True):
        others = [name for name in FACTORS if pair.target is None or name != pair.target[0]]
        row = {"changed": float(np.mean([b[n] != a[n] for n in others]))}
        if pair.target is None:
            row |= {f"changed_{n}": float(b[n] != a[n]) for n in (*OBJECT_FACTORS, "background", "light")}
        else:
            factor, value = pair.target
            row |= {"success": float(a[factor] == value), "had": float(b[factor] == value)}
        rows.append(row)
    return rows


def strange(images: Sequence[Image.Image]) -> np.ndarray:
    """(images,) how little the second critic can place each."""
    return strangeness(load_critic(CRITIC), images)


def scene_mask(place: str, prompt: Prompt) -> Mask | None:
    """The object of a prompt's scene, or all but it. Raises UnboxError for prompts without a scene."""
    if "scene" not in prompt.meta:
        raise UnboxError(
            f"the place '{place}' is known in the Shapes world only; "
            "take prompts from { shapes = N }, or give a mask"
        )
    return place_mask(place, Scene.from_json(prompt.meta["scene"]))


@validated
class ShapesPrompts:
    """Captions of Shapes for an experiment: of held-out scenes of one object, unless asked otherwise."""

    shapes: Annotated[Whole, Ge(1), Lt(2**30)]
    seed: Seed = 0
    split: Split = "heldout"
    pairs: Share = 0.0
    full: bool = True


def captions(
    count: int, seed: int = 0, split: Split = "heldout", pairs: float = 0.0, full: bool = True
) -> list[Prompt]:
    """`count` captions, as `ShapesPrompts` says. Raises UnboxError where they would not fit into memory."""
    require(count * CAPTION_BYTES, f"{count:,} captions")
    return prompts(count, seed, split, full, pairs)


register_critic(
    Critic(
        name="shapes",
        prompts=captions,
        prompt_options=ShapesPrompts,
        metrics={"factors": factors},
        places=("object", "background"),
        place_mask=scene_mask,
        targets=FACTORS,
        strangeness=strange,
    )
)
