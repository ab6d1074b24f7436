"""Captions of scenes: synonyms, omissions, and wordings kept out of training."""

from collections.abc import Callable

import numpy as np

from unbox.prompt import Prompt
from unbox.shapes.factors import OBJECT_FACTORS, TABLE
from unbox.shapes.scene import Object, Scene, Split, sample_scene, scene_rng

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

Phrase = Callable[[str, str], str]


def _wording(rng: np.random.Generator, split: Split) -> tuple[int, Phrase]:
    """A sentence plan and a choice of synonyms. One in eight (plan, synonym) pairs is held out.

    Held-out captions use only held-out pairs for shape and colour words, training captions never do;
    every single word and every plan occurs in training.
    """
    plan = int(rng.integers(len(PLANS)))

    def phrase(factor: str, value: str) -> str:
        words = TABLE[factor].wordings[value]
        if factor not in ("shape", "colour"):
            return str(words[rng.integers(len(words))])
        values = list(TABLE[factor].wordings)
        chosen = [
            word
            for i, word in enumerate(words)
            if ((3 * plan + 2 * i + values.index(value)) % 8 == 0) == (split == "heldout")
        ]
        chosen = chosen or list(words[:1])  # where a value has no held-out pair under this plan
        return str(chosen[rng.integers(len(chosen))])

    return plan, phrase


def _name(thing: Object, slot: int, mentioned: set[str], phrase: Phrase) -> str:
    words = [
        phrase(factor, getattr(thing, factor))
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

    A full caption mentions everything; a partial one leaves factors out, as often as `factors.TABLE` has
    it. The relation of two objects is always said (and says where they are).
    """
    alone = scene.relation == "alone"
    known = [f"{slot}.{name}" for slot in range(len(scene.objects)) for name in OBJECT_FACTORS]
    known = [name for name in known if alone or not name.endswith("position")] + ["background", "light"]
    keep = [full or rng.random() >= TABLE[name.split(".")[-1]].omitted for name in known]
    mentioned = {name for name, mention in zip(known, keep, strict=True) if mention}
    plan, phrase = _wording(rng, split)
    names = [_name(thing, slot, mentioned, phrase) for slot, thing in enumerate(scene.objects)]
    if alone:
        things = names[0]
        if "0.position" in mentioned:
            things += " " + phrase("position", scene.objects[0].position)
    else:
        backwards = int(rng.integers(2))
        words = RELATIONS[scene.relation][backwards]
        first, second = names[::-1] if backwards else names
        things = f"{first} {words[rng.integers(len(words))]} {second}"
        mentioned.add("relation")
    parts = {"things": things}
    parts |= {f: phrase(f, getattr(scene, f)) for f in ("background", "light") if f in mentioned}
    pieces = [piece.format(**parts) for piece in PLANS[plan] if piece.split("{")[1].split("}")[0] in parts]
    return "".join(pieces).strip(" ,:"), sorted(mentioned)


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
