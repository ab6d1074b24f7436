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

#: Heads whose values noise decides: of the whole picture; of the first object, where it stands; of its
#: outline, whose direction turns with the contrast between its colour and the background.
WHOLE = ("background", "light", "0.position")
OBJECT = ("0.colour", "0.texture")
OUTLINE = ("0.size", "0.shape")
DECIDED = (*WHOLE, *OBJECT, *OUTLINE)
BACKGROUND, PLACE, COLOUR = (DECIDED.index(name) for name in ("background", "0.position", "0.colour"))


@dataclass(frozen=True)
class DecidingNoise:
    """Of training captions, on a device: `codes` (m, 7) int64, the value of each of `DECIDED` in the scene,
    and `free` (m, 7) bool, whether the caption leaves it open. Directions (values, D), D numbers of latents:
    of `whole` pictures, of objects at each place, of outlines at each place for each colour and
    background."""

    codes: Tensor
    free: Tensor
    whole: tuple[Tensor, ...]
    objects: tuple[tuple[Tensor, ...], ...]
    outlines: dict[tuple[int, int, int], tuple[Tensor, ...]]

    @classmethod
    def of(cls, x0: Tensor, cover: Tensor, codes: np.ndarray, mentioned: Tensor) -> "DecidingNoise":
        """Of latents (scenes, 4, h, w), the share of objects at each of their places (scenes, 1, h, w),
        heads' values (scenes, heads), -100 where there is none, and what captions (scenes x copies, heads)
        say, set after set."""
        code = torch.from_numpy(codes).to(mentioned.device)
        relation, columns = NAMES.index("relation"), [NAMES.index(name) for name in DECIDED]
        alone = code[:, relation] == 0
        free = ~mentioned[:, columns]
        free[:, PLACE] &= alone.repeat(len(mentioned) // len(code))  # the relation says places of pairs
        mine = code[:, columns]
        every = mine.repeat(len(mentioned) // len(code), 1)
        mine, flat, share = mine[alone], x0[alone].flatten(1).float(), cover[alone].flatten(1).float()
        whole = directions(_effects(flat, mine, WHOLE))
        contrast = _contrasts(flat, share, mine)
        objects, outlines = [], {}
        for place in range(values("0.position")):
            here = mine[:, PLACE] == place
            effects = _effects(flat[here], mine[here], (*OBJECT, "background", "light"))[: len(OBJECT)]
            objects.append(directions(effects, whole))
            drawn = _effects(share[here], mine[here], OUTLINE)
            for (colour, ground), channels in contrast.items():
                seen = [torch.einsum("vp,c->vcp", part, channels).flatten(1) for part in drawn]
                outlines[place, colour, ground] = directions(seen, (*whole, *objects[-1]))
        return cls(every, free, whole, tuple(objects), outlines)

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Unit noise (B, D) that decides for what the captions of `index` (B,) leave open."""
        size = self.whole[0].shape[1]
        eps = torch.randn(len(index), size, generator=generator, device=index.device)
        return torch.cat([self._decided(*row) for row in zip(eps.split(1), index.tolist(), strict=True)])

    def directions_of(self, caption: int) -> tuple[Tensor, ...]:
        """Of each of `DECIDED`, (values, D), for the scene of a caption."""
        code = self.codes[caption].tolist()
        place, colour, ground = code[PLACE], code[COLOUR], code[BACKGROUND]
        return *self.whole, *self.objects[place], *self.outlines[place, colour, ground]

    def _decided(self, eps: Tensor, caption: int) -> Tensor:
        rows = zip(self.directions_of(caption), self.codes[caption], self.free[caption].tolist(), strict=True)
        for basis, value, free in rows:
            eps = decide(eps, basis, value[None]) if free else eps
        return eps


def _contrasts(flat: Tensor, share: Tensor, code: Tensor) -> dict[tuple[int, int], Tensor]:
    """Of each colour and background the unit difference (4,) of mean latents, from latents (n, 4 p), the
    share of objects (n, p) and values of `DECIDED` (n, 7)."""
    x = flat.view(len(flat), 4, -1)

    def means(weights: Tensor, column: int, name: str) -> list[Tensor]:
        inside = torch.einsum("ncp,np->nc", x, weights)
        rows = [code[:, column] == value for value in range(values(name))]
        return [inside[here].sum(0) / weights[here].sum().clamp(min=1) for here in rows]

    colours, grounds = means(share, COLOUR, "0.colour"), means(1 - share, BACKGROUND, "background")
    return {
        (i, j): torch.nn.functional.normalize(colour - ground, dim=0)
        for i, colour in enumerate(colours)
        for j, ground in enumerate(grounds)
    }


def _effects(flat: Tensor, code: Tensor, heads: Sequence[str]) -> list[Tensor]:
    """What each value of some heads adds to rows (n, D), by least squares: (values, D) a head, mean 0."""
    ones = [torch.nn.functional.one_hot(code[:, DECIDED.index(h)], values(h)).float() for h in heads]
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
    each other's place."""
    weights = eps @ basis.T
    largest = weights.argmax(1)
    rows = torch.arange(len(weights), device=weights.device)
    swapped = weights.clone()
    swapped[rows, wanted], swapped[rows, largest] = weights[rows, largest], weights[rows, wanted]
    return eps + (swapped - weights) @ basis
