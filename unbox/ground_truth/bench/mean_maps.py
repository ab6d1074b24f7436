"""What a factor's value looks like at a block: the mean map of every feature, value by value.

For the factors of an object (its place aside) maps are centred on the object, so that a star's points and a
square's corners do not average out; for place, background and light they are of the whole picture. The map of
the value wanted less that of the value an image has is what an edit has to bring.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from einops import rearrange

from unbox.edits.terms import TensorDictionary
from unbox.ground_truth.factor_scores import UpdateRows, Value
from unbox.shapes import FACTORS, Scene
from unbox.shapes.factors import TABLE
from unbox.shapes.render import CENTRES, UNITS

#: Dictionaries of a block, by name.
Dictionaries = Mapping[str, TensorDictionary]

#: Factors whose maps are centred on the object.
CENTRED = tuple(name for name, factor in TABLE.items() if factor.edit == "object")

#: The values that have maps: all that one object alone can show.
MAPPED: tuple[Value, ...] = tuple((f, v) for f, values in FACTORS.items() if f != "relation" for v in values)


def centred(maps: np.ndarray, position: str, back: bool = False) -> np.ndarray:
    """Maps (y, x, ...) moved so that the object's place is the middle, or `back` again; zeros come in.

    Places lie on a 16-pixel grid, so that this is exact on grids of 4 x 4 and their multiples.
    """
    height, width = maps.shape[:2]
    x, y = CENTRES[position]
    down, right = (round((UNITS / 2 - c) * side / UNITS) for c, side in ((y, height), (x, width)))
    if back:
        down, right = -down, -right
    moved = np.zeros_like(maps)
    target = moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
    target[...] = maps[max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)]
    return moved


class MeanMaps:
    """Mean codes of a block's dictionaries by factor value and position."""

    def __init__(self, dictionaries: Dictionaries, rows: UpdateRows, scenes: Sequence[Scene]) -> None:
        """Over the scenes of one object, steps and branches together.

        dictionaries: the block's, by name; rows: its rows in a store, those of `scenes` in order.
        """
        self.grid = rows.shape[3], rows.shape[4]
        self.counts = dict.fromkeys(MAPPED, 0)
        zero = np.zeros((), np.float32)
        self._sums = {name: dict.fromkeys(MAPPED, zero) for name in dictionaries}
        for i, scene in enumerate(scenes):
            if len(scene.objects) > 1:
                continue
            update = torch.from_numpy(np.asarray(rows.read(i), np.float32))
            shown = [(f, v) for f, v in scene.factors().items() if (f, v) in self.counts]
            for value in shown:
                self.counts[value] += 1
            for name, dictionary in dictionaries.items():
                codes = dictionary.encode(rearrange(update, "step branch y x d -> (step branch) y x d"))
                maps = codes.dense(len(dictionary.W_dec)).mean(0).float().numpy()
                middle = centred(maps, scene.objects[0].position)
                for value in shown:
                    shift = middle if value[0] in CENTRED else maps
                    self._sums[name][value] = self._sums[name][value] + shift

    def mean(self, name: str, value: Value) -> np.ndarray:
        """(y, x, n) mean map of every feature over the images with a value."""
        return self._sums[name][value] / max(self.counts[value], 1)

    def difference(self, name: str, factor: str, wanted: str, scene: Scene) -> np.ndarray:
        """(y, x, n): the maps of the value wanted less those of the value that a scene has, in place."""
        shown = scene.factors()
        change = self.mean(name, (factor, wanted)) - self.mean(name, (factor, shown[factor]))
        return centred(change, shown["position"], back=True) if factor in CENTRED else change

    def contrasts(self, name: str, value: Value) -> np.ndarray:
        """(other values, y, x, n): the maps of a value less those of every other value of its factor."""
        factor, wanted = value
        others = [v for v in FACTORS[factor] if v != wanted and self.counts[factor, v]]
        mean = self.mean(name, value)
        return np.stack([mean - self.mean(name, (factor, other)) for other in others])

    def weight(self, name: str, value: Value) -> np.ndarray:
        """(n,) how much each feature changes between a value and another: the norm of the difference of its
        maps, averaged over the other values."""
        return np.sqrt((self.contrasts(name, value) ** 2).sum((1, 2))).mean(0)

    def moved(self, value: Value, name: str = "neurons") -> float:
        """Root mean square, over positions and other values, of how far a value moves the codes."""
        return float(np.sqrt((self.contrasts(name, value) ** 2).sum(-1).mean()))

    def gain(self, name: str, value: Value) -> np.ndarray:
        """(n,) how much more of each feature a value has than the others: summed over positions."""
        return self.contrasts(name, value).sum((1, 2)).mean(0)
