"""Scenes of the Shapes world: every factor of a picture as a value."""

from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np

from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.shapes.factors import FACTORS, OBJECT_FACTORS, SCENE_FACTORS

Split = Literal["train", "heldout"]

#: The places of slot 0 and slot 1 in a scene of two objects.
PAIR_POSITIONS = {"left of": ("left", "right"), "above": ("top", "bottom")}


_LOOKS: dict[str, list[tuple[str, ...]]] = {"train": [], "heldout": []}
for _places in product(*(enumerate(FACTORS[name]) for name in ("shape", "colour", "texture"))):
    (_s, _c, _t), _look = zip(*_places, strict=True)
    # A Latin-square-like rule: every value of every factor stays well represented in both splits.
    _LOOKS["heldout" if (_s + 2 * _c + 4 * _t) % 9 == 0 else "train"].append(_look)


def looks(split: Split) -> list[tuple[str, ...]]:
    """The (shape, colour, texture) combinations of a split."""
    return _LOOKS[split]


@dataclass(frozen=True)
class Object:
    """One object. Jitter is continuous: `dx, dy` in pixels, `growth` a factor of size, `turn` in radians."""

    shape: str
    colour: str
    size: str
    texture: str
    position: str
    dx: float = 0.0
    dy: float = 0.0
    growth: float = 1.0
    turn: float = 0.0

    def __post_init__(self) -> None:
        for name in OBJECT_FACTORS:
            _check(name, getattr(self, name))


@dataclass(frozen=True)
class Scene:
    """One or two objects before a background under a light."""

    objects: tuple[Object, ...]
    relation: str
    background: str
    light: str

    def __post_init__(self) -> None:
        for name in SCENE_FACTORS:
            _check(name, getattr(self, name))
        places = tuple(thing.position for thing in self.objects)
        if self.relation == "alone":
            if len(self.objects) != 1:
                raise UnboxError(f"a scene of {len(self.objects)} objects cannot have the relation 'alone'")
        elif places != PAIR_POSITIONS[self.relation]:
            wanted = " and ".join(PAIR_POSITIONS[self.relation])
            raise UnboxError(f"the relation '{self.relation}' puts its objects at {wanted}, not at {places}")

    def factors(self, slot: int = 0) -> dict[str, str]:
        """Every factor's value, those of an object taken from `slot` (0 is the left or upper one)."""
        thing = self.objects[slot]
        return {name: getattr(thing if name in OBJECT_FACTORS else self, name) for name in FACTORS}

    def with_factor(self, factor: str, value: str, slot: int = 0) -> "Scene":
        """The same scene with one factor changed; positions change in scenes of one object only."""
        if factor == "relation":
            raise UnboxError("changing the relation would change how many objects there are; build a Scene")
        changed: dict[str, Any] = {factor: value}
        if factor in SCENE_FACTORS:
            return replace(self, **changed)
        things = list(self.objects)
        things[slot] = replace(things[slot], **changed)
        return replace(self, objects=tuple(things))

    def to_json(self) -> dict[str, JSON]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: JSON) -> "Scene":
        """Raises UnboxError where a field is missing, unknown or has no such value."""
        given: Any = data
        try:
            things = tuple(Object(**thing) for thing in given["objects"])
            return cls(things, given["relation"], given["background"], given["light"])
        except (KeyError, TypeError) as error:
            raise UnboxError(f"this is not the JSON of a Shapes scene: {error}") from error


def _check(factor: str, value: str) -> None:
    if value not in FACTORS[factor]:
        raise UnboxError(f"no {factor} '{value}' in the Shapes world; there are {', '.join(FACTORS[factor])}")


#: Half-widths of the uniform jitter: position in pixels, size as a fraction, rotation in radians.
JITTER = {"position": 1.0, "size": 0.06, "turn": 0.12}


def sample_scene(rng: np.random.Generator, split: Split = "train", pairs: float = 0.4) -> Scene:
    """Draw a scene. `pairs` is the share of scenes with two objects.

    (shape, colour, texture) combinations are divided between the splits: a held-out scene shows
    only combinations that no training scene has.
    """
    relation = str(rng.choice(FACTORS["relation"][1:])) if rng.random() < pairs else "alone"
    places = PAIR_POSITIONS.get(relation) or (str(rng.choice(FACTORS["position"])),)
    things = tuple(_sample_object(rng, split, place) for place in places)
    background, light = (str(rng.choice(FACTORS[name])) for name in ("background", "light"))
    return Scene(things, relation, background, light)


def _sample_object(rng: np.random.Generator, split: Split, position: str) -> Object:
    looks = _LOOKS[split]
    shape, colour, texture = looks[rng.integers(len(looks))]
    dx, dy, growth, turn = rng.uniform(-1, 1, size=4).tolist()
    return Object(
        shape, colour, str(rng.choice(FACTORS["size"])), texture, position,
        dx=dx * JITTER["position"], dy=dy * JITTER["position"],
        growth=1 + growth * JITTER["size"], turn=turn * JITTER["turn"],
    )  # fmt: skip


def sample_scenes(n: int, seed: int = 0, split: Split = "train", pairs: float = 0.4) -> list[Scene]:
    """`n` scenes; the i-th depends on (seed, split, i) alone, so any slice can be made again."""
    return [sample_scene(scene_rng(seed, i, split), split, pairs) for i in range(n)]


def scene_rng(seed: int, index: int, split: Split) -> np.random.Generator:
    """The random stream of one scene and its caption. Raises UnboxError for an unknown split."""
    if split not in _LOOKS:
        raise UnboxError(f"no split '{split}' of the Shapes world; there are {', '.join(_LOOKS)}")
    return np.random.default_rng([seed, index, list(_LOOKS).index(split)])
