"""Many scenes as arrays: drawn at once, sampled at once, on any device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unbox.shapes.factors import FACTORS, OBJECT_FACTORS
from unbox.shapes.scene import JITTER, PAIR_POSITIONS, Object, Scene, Split, looks

_PLACES = {
    relation: [FACTORS["position"].index(p) for p in PAIR_POSITIONS.get(relation, ())]
    for relation in FACTORS["relation"]
}


@dataclass(frozen=True)
class SceneTable:
    """`n` scenes. `objects` (n, 2, 5): indices into `FACTORS` of each slot's factors, in the order of
    `OBJECT_FACTORS`; `jitter` (n, 2, 4): dx, dy, growth, turn; `relation`, `background`, `light` (n,):
    indices. The second slot of a scene of one object means nothing."""

    objects: np.ndarray
    jitter: np.ndarray
    relation: np.ndarray
    background: np.ndarray
    light: np.ndarray

    def __len__(self) -> int:
        return len(self.relation)

    def __getitem__(self, where: slice | np.ndarray) -> "SceneTable":
        return SceneTable(*(getattr(self, name)[where] for name in self.__dataclass_fields__))

    def scene(self, i: int) -> Scene:
        """The i-th as a Scene."""
        relation = FACTORS["relation"][self.relation[i]]
        things = []
        for slot in range(1 if relation == "alone" else 2):
            codes, jitter = self.objects[i, slot], self.jitter[i, slot].tolist()
            values = {f: FACTORS[f][codes[j]] for j, f in enumerate(OBJECT_FACTORS) if f in FACTORS}
            things.append(Object(**values, dx=jitter[0], dy=jitter[1], growth=jitter[2], turn=jitter[3]))
        background, light = FACTORS["background"][self.background[i]], FACTORS["light"][self.light[i]]
        return Scene(tuple(things), relation, background, light)

    @classmethod
    def of(cls, scenes: Sequence[Scene]) -> "SceneTable":
        """The table of given scenes."""
        n = len(scenes)
        objects, jitter = np.zeros((n, 2, 5), np.int64), np.zeros((n, 2, 4), np.float32)
        jitter[..., 2] = 1
        for i, scene in enumerate(scenes):
            for slot, thing in enumerate(scene.objects):
                objects[i, slot] = [FACTORS[f].index(getattr(thing, f)) for f in OBJECT_FACTORS]
                jitter[i, slot] = thing.dx, thing.dy, thing.growth, thing.turn
        rest = (
            np.array([FACTORS[f].index(getattr(scene, f)) for scene in scenes], np.int64)
            for f in ("relation", "background", "light")
        )
        return cls(objects, jitter, *rest)


def sample_table(n: int, seed: int, split: Split = "train", pairs: float = 0.4) -> SceneTable:
    """`n` scenes with the distribution of `sample_scene`, drawn at once from one stream: the same for a
    seed."""
    rng = np.random.default_rng([seed, 77])
    look = np.array(
        [
            [FACTORS[f].index(v) for f, v in zip(("shape", "colour", "texture"), one, strict=True)]
            for one in looks(split)
        ]
    )
    chosen = look[rng.integers(len(look), size=(n, 2))]
    size, place = rng.integers(2, size=(n, 2)), rng.integers(9, size=(n, 2))
    relation = np.where(rng.random(n) < pairs, rng.integers(1, 3, size=n), 0)
    for index, name in enumerate(FACTORS["relation"]):
        if _PLACES[name]:
            place[relation == index] = _PLACES[name]
    objects = np.stack([chosen[..., 0], chosen[..., 1], size, chosen[..., 2], place], -1)
    jitter = rng.uniform(-1, 1, size=(n, 2, 4)) * [
        JITTER["position"],
        JITTER["position"],
        JITTER["size"],
        JITTER["turn"],
    ]
    jitter = (jitter + np.array([0, 0, 1, 0])).astype(np.float32)
    background, light = (rng.integers(len(FACTORS[f]), size=n) for f in ("background", "light"))
    return SceneTable(objects, jitter, relation, background, light)
