"""Noise that decides what a caption leaves open.

Where noise and picture are drawn independently, the best answer at pure noise to a caption that leaves
things open is their mean, whatever the seed. Here the two are coupled, as minibatch transport couples them
(2302.00482), but by a rule that needs no search: each value of a factor has a direction of the noise, the
mean latents of pictures that have it, and the value whose direction weighs most is drawn. Unit noise stays
unit noise: of the weights of one factor two change places.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unbox.recipes.shapes.world import NAMES, values

#: Heads whose values noise decides: of the whole picture, and of the first object, where it stands.
WHOLE = ("background", "light", "0.position")
OBJECT = ("0.size", "0.colour", "0.texture", "0.shape")


@dataclass(frozen=True)
class DecidingNoise:
    """Of training captions, on a device: `wanted` (m, 7) int64, which value of each of `WHOLE` and `OBJECT`
    the scene has and the caption leaves open, -1 where there is nothing to decide; `place` (m,) of the first
    object. Directions (values, D), D numbers of latents: of each of `WHOLE`, and of each of `OBJECT` at each
    place."""

    wanted: Tensor
    place: Tensor
    whole: tuple[Tensor, ...]
    objects: tuple[tuple[Tensor, ...], ...]

    @classmethod
    def of(cls, x0: Tensor, codes: np.ndarray, mentioned: Tensor) -> "DecidingNoise":
        """Of latents (scenes, 4, h, w), heads' values (scenes, heads), -100 where there is none, and what
        captions (scenes x copies, heads) say, set after set."""
        code = torch.from_numpy(codes).to(mentioned.device)
        value = code.repeat(len(mentioned) // len(code), 1)
        relation, place = NAMES.index("relation"), NAMES.index("0.position")
        free = ~mentioned
        free[:, place] &= value[:, relation] == 0  # places of pairs are said by the relation
        columns = [NAMES.index(name) for name in (*WHOLE, *OBJECT)]
        wanted = torch.where(free, value, -1)[:, columns]
        alone = code[:, relation] == 0
        flat, code = x0[alone].flatten(1).float(), code[alone]
        whole = directions(_effects(flat, code, WHOLE))
        objects = tuple(
            directions(_effects(flat[here], code[here], (*OBJECT, "background", "light"))[:4], whole)
            for here in (code[:, place] == p for p in range(values("0.position")))
        )
        return cls(wanted, value[:, place], whole, objects)

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Unit noise (B, D) that decides for what the captions of `index` (B,) leave open."""
        size = self.whole[0].shape[1]
        eps = torch.randn(len(index), size, generator=generator, device=index.device)
        wanted, place = self.wanted[index], self.place[index]
        for column, basis in enumerate(self.whole):
            eps = decide(eps, basis, wanted[:, column])
        for p in place.unique().tolist():
            here = place == p
            for column, basis in enumerate(self.objects[p], len(WHOLE)):
                eps[here] = decide(eps[here], basis, wanted[here, column])
        return eps


def _effects(flat: Tensor, code: Tensor, heads: Sequence[str]) -> list[Tensor]:
    """What each value of some heads adds to latents (n, D), by least squares: (values, D) a head, mean 0."""
    ones = [torch.nn.functional.one_hot(code[:, NAMES.index(h)], values(h)).float() for h in heads]
    design = torch.cat([o - o.mean(0) for o in ones], 1)
    gram = design.T @ design
    found = torch.linalg.pinv(gram, hermitian=True) @ (design.T @ (flat - flat.mean(0)))
    return [part - part.mean(0) for part in found.split([o.shape[1] for o in ones])]


def directions(effects: Sequence[Tensor], before: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
    """For effects (values, D), mean 0, the nearest W with W W' = I - 1/values, each orthogonal to those
    before it."""
    result: list[Tensor] = []
    for effect in effects:
        for basis in (*before, *result):
            effect = effect - effect @ basis.T @ basis
        left, strength, right = torch.linalg.svd(effect, full_matrices=False)
        result.append(left[:, : len(strength) - 1] @ right[: len(strength) - 1])
    return tuple(result)


def decide(eps: Tensor, basis: Tensor, wanted: Tensor) -> Tensor:
    """Noise (B, D) with the largest of its weights along `basis` (values, D) and that of `wanted` (B,) in
    each other's place; as it is where `wanted` is -1."""
    weights = eps @ basis.T
    largest = weights.argmax(1)
    wanted = torch.where(wanted < 0, largest, wanted)
    rows = torch.arange(len(weights), device=weights.device)
    swapped = weights.clone()
    swapped[rows, wanted], swapped[rows, largest] = weights[rows, largest], weights[rows, wanted]
    return eps + (swapped - weights) @ basis
