"""Captions in people's own wordings: requests, lists, other orders, parentheses, words between.

A caption is a plan of clauses; each clause has wordings, and the wordings and plans that begin with "~" are
kept out of training: held-out captions are made of those wherever there are any.
"""

import random
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from unbox.shapes.factors import FACTORS
from unbox.shapes.scene import Scene, Split

_TABLE = tomllib.loads((Path(__file__).parent / "wordings.toml").read_text(encoding="utf-8"))
WORDS: dict[str, dict[str, list[str]]] = _TABLE["words"]
PATTERNS, PLACES, LIGHT, ABOUT, PAIRS, KEYS = (
    _TABLE[name] for name in ("patterns", "places", "light", "about", "pairs", "keys")
)
_TOP, _BOTTOM = ("top", "upper"), ("bottom", "lower")

#: Words the longest caption may have: SDXL's encoders read 77 tokens, two of them marks.
MOST = 56


class _Voice:
    """A random choice of wordings; of those kept out of training, none or as many as there are."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng, self.split = rng, split

    def pick(self, wordings: Sequence[str]) -> str:
        apart = [w for w in wordings if w.startswith("~")]
        if self.split == "heldout" and apart and self.some(0.6):
            return self.rng.choice(apart)[1:]
        return self.rng.choice([w for w in wordings if not w.startswith("~")])

    def some(self, share: float) -> bool:
        return self.rng.random() < share

    def filler(self) -> str:
        """A word between that means nothing here; some are no words at all."""
        if self.some(0.85):
            return self.pick(_TABLE["fillers"])
        return "".join(
            self.rng.choice("bcdfghklmnprstvz") + self.rng.choice("aeiou")
            for _ in range(self.rng.randint(2, 3))
        )

    def word(self, factor: str, value: str) -> str:
        words = WORDS[factor][value]
        return words[0] if self.some(0.35) else self.rng.choice(words)

    def place(self, position: str) -> str:
        v = self.rng.choice(_TOP if "top" in position else _BOTTOM)
        h = "left" if "left" in position else "right"
        if position == "center":
            kind = "center"
        elif position in ("left", "right"):
            kind = "horizontal"
        else:
            kind, v = ("corner", v) if " " in position else ("vertical", "top" if v in _TOP else "bottom")
        w = "upper" if "top" in position else "lower"
        return self.pick(PLACES[kind]).format(v=v, h=h, w=w)

    def light(self, light: str) -> str:
        if light.startswith("from"):
            return self.pick(LIGHT["side"]).format(h=light.removeprefix("from the "))
        return self.pick(LIGHT[light])

    def background(self, background: str) -> str:
        text = self.pick(_TABLE["background"]).format(x=self.word("background", background))
        return text.replace(" a o", " an o").replace(" a a", " an a")


def _article(voice: _Voice, text: str) -> str:
    article = voice.pick(_TABLE["articles"])
    if article == "a" and text[0] in "aeiou":
        article = "an"
    return f"{article} {text}".strip()


def _noun_phrase(voice: _Voice, known: Mapping[str, str]) -> str:
    """An object with all of the factors given, in one of many orders."""
    noun = (
        voice.word("shape", known["shape"]) if "shape" in known else voice.pick(("object", "thing", "shape"))
    )
    before, after = [], []
    for factor in ("size", "texture", "colour"):
        if factor not in known:
            continue
        word = voice.word(factor, known[factor])
        if factor == "texture" and voice.some(0.25):
            after.append(voice.pick(PATTERNS[known["texture"]]))
        elif voice.some(0.12):
            after.append(word)
        elif factor == "colour" and voice.some(0.08):
            after.append(
                voice.pick(
                    (
                        f"in {word}",
                        f"coloured {word}",
                        f"colored {word}",
                        f"painted {word}",
                        f"~that was painted {word}",
                    )
                )
            )
        elif factor == "size" and voice.some(0.06):
            after.append(
                voice.pick((f"of {word} size", f"{word} in size", f"{word} sized", f"~{word}-sized"))
            )
        else:
            before.append(word)
    if voice.some(0.4):
        voice.rng.shuffle(before)
    if voice.some(0.15):
        before.insert(voice.rng.randrange(len(before) + 1), voice.filler())
    glue = ", " if voice.some(0.15) else " and " if len(before) > 1 and voice.some(0.06) else " "
    text = _article(voice, f"{glue.join(before)} {noun}".strip())
    if not after:
        return text
    voice.rng.shuffle(after)
    plain = [a for a in after if " " not in a]
    tail = [a for a in after if " " in a]
    if plain:
        text += voice.pick(
            (" ({x})", ", {x}", " that is {x}", " which is {x}", "~ [{x}]", "~, being {x}")
        ).format(x=(", " if voice.some(0.5) else " and ").join(plain))
    return " ".join([text, *tail])


def _listed(voice: _Voice, known: Mapping[str, str]) -> list[str]:
    """Every factor as `key: value`, or bare."""
    keyed = voice.some(0.5)
    items = []
    for factor, value in known.items():
        if factor == "position":
            word = voice.place(value) if voice.some(0.3) else value
        elif factor == "light":
            word = value if keyed else voice.light(value)
        else:
            word = voice.word(factor, value)
            if factor == "background" and not keyed:
                word += voice.pick((" background", " backdrop", " behind"))
        items.append(f"{voice.pick(KEYS[factor])}: {word}" if keyed else word)
    if voice.some(0.7):
        voice.rng.shuffle(items)
    return items


def _one(voice: _Voice, known: dict[str, str]) -> list[str]:
    """Clauses about a single object; `known` are its factors and the scene's."""
    if voice.some(0.12) and "shape" in known:
        return _listed(voice, known)
    thing = {k: v for k, v in known.items() if k in ("shape", "colour", "size", "texture")}
    later = [k for k in thing if k != "shape" and len(thing) > 1 and voice.some(0.12)]
    name = _noun_phrase(voice, {k: v for k, v in thing.items() if k not in later})
    noun = name.split()[-1].strip("()[],")
    clauses = []
    position = voice.place(known["position"]) if "position" in known else ""
    if position and voice.some(0.6):
        name, position = f"{name} {position}", ""
    clauses.append(name)
    for factor in later:
        clauses.append(voice.pick(ABOUT["adjective"]).format(x=voice.word(factor, thing[factor]), n=noun))
    if position:
        where = voice.pick(ABOUT["place"]).format(x=position, n=noun)
        clauses.insert(0 if where == position else len(clauses), where)
    return _with_scene(voice, clauses, known)


def _with_scene(voice: _Voice, clauses: list[str], known: Mapping[str, str]) -> list[str]:
    """Background and light before or behind what is said of the objects."""
    said = [voice.background(known["background"])] if "background" in known else []
    said += [voice.light(known["light"])] if "light" in known else []
    if voice.some(0.4):
        said.reverse()
    for clause in said:
        clauses = [clause, *clauses] if voice.some(0.25) else [*clauses, clause]
    return clauses


def _two(
    voice: _Voice, things: Sequence[Mapping[str, str]], relation: str, known: Mapping[str, str]
) -> list[str]:
    a, b = (_noun_phrase(voice, thing) for thing in things)
    return _with_scene(voice, [voice.pick(PAIRS[relation]).format(a=a, b=b)], known)


def _joined(voice: _Voice, clauses: list[str]) -> str:
    """Clauses as one text: one joint throughout, or mixed ones."""
    same = voice.pick(_TABLE["joints"])
    mixed = voice.some(0.3)
    text = clauses[0]
    for clause in clauses[1:]:
        if clause.startswith(("on ", "against", "with ", "in ", "lit", "under ")) and voice.some(0.5):
            text += " " + clause
        else:
            text += (voice.pick(_TABLE["joints"]) if mixed else same) + clause
    return text


def free_caption(
    scene: Scene,
    rng: random.Random,
    split: Split = "train",
    full: bool = True,
    omitted: float = 0.35,
    only: Sequence[str] = (),
) -> tuple[str, list[str]]:
    """A caption and the factors it mentions, named as `captions.caption` names them.

    A partial one leaves each factor out with probability `omitted`; a pair's relation is always
    said. `only`: factors that may be mentioned at all, where some may not.
    """
    voice = _Voice(rng, split)
    while True:
        mentioned: list[str] = []

        def keep(name: str) -> bool:
            said = full or not voice.some(omitted)
            said = said and (not only or name.split(".")[-1] in only)
            if said:
                mentioned.append(name)  # noqa: B023
            return said

        things = []
        for slot, thing in enumerate(scene.objects):
            factors = ("shape", "colour", "size", "texture")
            things.append({f: getattr(thing, f) for f in factors if keep(f"{slot}.{f}")})
        known = {f: getattr(scene, f) for f in ("background", "light") if keep(f)}
        if scene.relation == "alone":
            if keep("0.position"):
                known["position"] = scene.objects[0].position
            clauses = _one(voice, things[0] | known)
        else:
            mentioned.append("relation")
            clauses = _two(voice, things, scene.relation, known)
        if voice.some(0.12):
            clauses.insert(voice.rng.randrange(1, len(clauses) + 1), voice.pick(_TABLE["asides"]))
        opening, closing = voice.pick(_TABLE["openings"]), voice.pick(_TABLE["closings"])
        if clauses and clauses[0].startswith(("the background", "background", "it ", "the light", "light:")):
            opening = ""
        text = " ".join((opening + _joined(voice, clauses) + closing).split())
        if len(text.replace(",", " ,").replace(":", " :").split()) <= MOST:
            return text, sorted(mentioned)


def vocabulary() -> set[str]:
    """Every word that names a value: what a tokenizer should hold whole."""
    return {
        part for words in WORDS.values() for alike in words.values() for w in alike for part in w.split()
    } | set(FACTORS)
