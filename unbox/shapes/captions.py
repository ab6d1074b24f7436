"""Captions of scenes: synonyms, omissions, and wordings kept out of training."""

from collections.abc import Callable

import numpy as np

from unbox.prompt import Prompt
from unbox.shapes.scene import OBJECT_FACTORS, Object, Scene, Split, sample_scene, scene_rng

#: Every way to say each value; the first is the plainest.
WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "shape": {
        "circle": ("circle", "disc", "ball"),
        "square": ("square", "box"),
        "triangle": ("triangle", "pyramid"),
        "star": ("star", "pentagram"),
        "heart": ("heart", "valentine"),
        "cross": ("cross", "plus"),
    },
    "colour": {
        "red": ("red", "crimson", "scarlet"),
        "orange": ("orange", "tangerine"),
        "yellow": ("yellow", "golden"),
        "green": ("green", "emerald"),
        "cyan": ("cyan", "turquoise"),
        "blue": ("blue", "azure"),
        "purple": ("purple", "violet"),
        "white": ("white", "ivory"),
    },
    "size": {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")},
    "texture": {
        "solid": ("solid", "plain", "flat"),
        "striped": ("striped", "banded"),
        "checkered": ("checkered", "checked"),
        "dotted": ("dotted", "spotted"),
    },
    "position": {
        "top left": ("in the top left corner", "at the upper left"),
        "top": ("at the top", "in the upper middle"),
        "top right": ("in the top right corner", "at the upper right"),
        "left": ("on the left", "at the left side"),
        "center": ("in the center", "in the middle"),
        "right": ("on the right", "at the right side"),
        "bottom left": ("in the bottom left corner", "at the lower left"),
        "bottom": ("at the bottom", "in the lower middle"),
        "bottom right": ("in the bottom right corner", "at the lower right"),
    },
    "background": {
        "gray": ("gray", "ashen"),
        "navy": ("navy", "midnight"),
        "brown": ("brown", "chocolate"),
        "olive": ("olive", "mossy"),
        "teal": ("teal", "petrol"),
        "plum": ("plum", "mauve"),
    },
    "light": {
        "bright": ("bright light", "brightly lit"),
        "dim": ("dim light", "dimly lit"),
        "from the left": ("light from the left", "lit from the left"),
        "from the right": ("light from the right", "lit from the right"),
    },
}

#: How two objects are related: said from slot 0 to slot 1, and the other way round.
RELATIONS = {
    "left of": (("left of", "to the left of"), ("right of", "to the right of")),
    "above": (("above", "over"), ("below", "under")),
}

#: Sentence plans. Parts that a caption omits vanish with their punctuation.
PLANS = (
    ("{things}", " on a {background} background", ", {light}"),
    ("on a {background} background: ", "{things}", ", {light}"),
    ("{light}: ", "{things}", " on a {background} background"),
    ("a picture of {things}", ", {background} background", ", {light}"),
    ("{things}", ", {light}", ", {background} background"),
)

#: Shares of partial captions in which each factor is left out.
OMITTED = {
    "shape": 0.2,
    "colour": 0.3,
    "size": 0.4,
    "texture": 0.4,
    "position": 0.4,
    "background": 0.4,
    "light": 0.5,
}

Say = Callable[[str, str], str]


def _wording(rng: np.random.Generator, split: Split) -> tuple[int, Say]:
    """A sentence plan and a choice of synonyms. One in eight (plan, synonym) pairs is held out.

    Held-out captions use only held-out pairs for shape and colour words, training captions never do;
    every single word and every plan occurs in training.
    """
    plan = int(rng.integers(len(PLANS)))

    def say(factor: str, value: str) -> str:
        words = WORDS[factor][value]
        if factor not in ("shape", "colour"):
            return str(words[rng.integers(len(words))])
        values = list(WORDS[factor])
        chosen = [
            word
            for i, word in enumerate(words)
            if ((3 * plan + 2 * i + values.index(value)) % 8 == 0) == (split == "heldout")
        ]
        chosen = chosen or list(words[:1])  # where a value has no held-out pair under this plan
        return str(chosen[rng.integers(len(chosen))])

    return plan, say


def _name(thing: Object, slot: int, mentioned: set[str], say: Say) -> str:
    words = [
        say(factor, getattr(thing, factor))
        for factor in ("size", "texture", "colour", "shape")
        if f"{slot}.{factor}" in mentioned
    ]
    if f"{slot}.shape" not in mentioned:
        words.append("object")
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words])


def caption(
    scene: Scene, rng: np.random.Generator, split: Split = "train", full: bool = True
) -> tuple[str, list[str]]:
    """A caption and the factors it mentions, named `0.colour` for an object's and `light` for the scene's.

    A full caption mentions everything; a partial one leaves factors out as `OMITTED` tells. The
    relation of two objects is always said (and says where they are).
    """
    alone = scene.relation == "alone"
    known = [f"{slot}.{name}" for slot in range(len(scene.objects)) for name in OBJECT_FACTORS]
    known = [name for name in known if alone or not name.endswith("position")] + ["background", "light"]
    keep = [full or rng.random() >= OMITTED[name.split(".")[-1]] for name in known]
    mentioned = {name for name, kept in zip(known, keep, strict=True) if kept}
    plan, say = _wording(rng, split)
    names = [_name(thing, slot, mentioned, say) for slot, thing in enumerate(scene.objects)]
    if alone:
        things = names[0]
        if "0.position" in mentioned:
            things += " " + say("position", scene.objects[0].position)
    else:
        backwards = int(rng.integers(2))
        words = RELATIONS[scene.relation][backwards]
        first, second = names[::-1] if backwards else names
        things = f"{first} {words[rng.integers(len(words))]} {second}"
        mentioned.add("relation")
    parts = {"things": things}
    parts |= {name: say(name, getattr(scene, name)) for name in ("background", "light") if name in mentioned}
    said = [piece.format(**parts) for piece in PLANS[plan] if piece.split("{")[1].split("}")[0] in parts]
    return "".join(said).strip(" ,:"), sorted(mentioned)


def prompts(
    n: int, seed: int = 0, split: Split = "train", full: bool = True, pairs: float = 0.4
) -> list[Prompt]:
    """`n` captions of fresh scenes; `meta` holds the scene's JSON, what is mentioned, split and index."""
    result = []
    for i in range(n):
        rng = scene_rng(seed, i, split)
        scene = sample_scene(rng, split, pairs)
        text, mentioned = caption(scene, rng, split, full)
        result.append(Prompt(text, {"scene": scene.to_json(), "mentioned": mentioned}))
    return result
