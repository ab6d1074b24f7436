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

from unbox.errors import UnboxError
from unbox.recipes.shapes.world import NAMES, values

#: Heads whose values noise decides: of the whole picture; of the first object, where it stands; of its
#: outline, in the one mixture of channels in which objects and backgrounds differ most.
WHOLE = ("background", "light", "0.position")
OBJECT = ("0.colour", "0.texture")
OUTLINE = ("0.size", "0.shape")
DECIDED = (*WHOLE, *OBJECT, *OUTLINE)
BACKGROUND, PLACE, COLOUR = (DECIDED.index(name) for name in ("background", "0.position", "0.colour"))
PLACES = values(DECIDED[PLACE])


@dataclass(frozen=True)
class DecidingNoise:
    """Of training captions, on a device: `codes` (m, 7) int64, the value of each of `DECIDED` in the scene,
    and `free` (m, 7) bool, whether the caption leaves it open. `tables`: of each of `DECIDED` the directions
    (kinds of scene, values, D), D numbers of latents: one kind for `WHOLE`, a kind for each place for the
    others."""

    codes: Tensor
    free: Tensor
    tables: tuple[Tensor, ...]

    @classmethod
    def of(cls, x0: Tensor, cover: Tensor, codes: np.ndarray, mentioned: Tensor) -> "DecidingNoise":
        """Of latents (scenes, 4, h, w), the share of objects at each of their places (scenes, 1, h, w),
        heads' values (scenes, heads), -100 where there is none, and what captions (scenes x copies, heads)
        say, set after set. Raises UnboxError where no scene shows one object alone at some place."""
        code = torch.from_numpy(codes).to(mentioned.device)
        relation, columns = NAMES.index("relation"), [NAMES.index(name) for name in DECIDED]
        alone, copies = code[:, relation] == 0, len(mentioned) // len(code)
        free = ~mentioned[:, columns]
        free[:, PLACE] &= alone.repeat(copies)  # the relation says places of pairs
        every = code[:, columns]
        mine, flat, share = every[alone], x0[alone].flatten(1).float(), cover[alone].flatten(1).float()
        if len(mine[:, PLACE].unique()) < PLACES:
            raise UnboxError(
                f"{len(code)} scenes leave some of {PLACES} places without an object alone, which the finish "
                "learns from: draw more (--scenes)"
            )
        return cls(every.repeat(copies, 1), free, _tables(flat, share, mine))

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Unit noise (B, D) that decides for what the captions of `index` (B,) leave open."""
        size = self.tables[0].shape[-1]
        eps = torch.randn(len(index), size, generator=generator, device=index.device)
        for column, basis in enumerate(self.directions_of(index)):
            swapped = decide(eps, basis, self.codes[index, column])
            eps = torch.where(self.free[index, column, None], swapped, eps)
        return eps

    def directions_of(self, index: Tensor) -> list[Tensor]:
        """Of each of `DECIDED`, (B, values, D), for the scenes of captions (B,)."""
        place = self.codes[index, PLACE]
        return [table[place if len(table) == PLACES else place * 0] for table in self.tables]


def _tables(flat: Tensor, share: Tensor, code: Tensor) -> tuple[Tensor, ...]:
    """`DecidingNoise.tables` from scenes of one object: latents (n, 4 p), the share of objects (n, p) and
    values of `DECIDED` (n, 7)."""
    whole, channels = directions(_effects(flat, code, WHOLE)), _contrast(flat, share, code)
    objects, outlines = [], []
    for place in range(PLACES):
        here = code[:, PLACE] == place
        drawn = _effects(share[here], code[here], OUTLINE)
        seen = [torch.einsum("vp,c->vcp", part, channels).flatten(1) for part in drawn]
        # Before colours: they differ in four channels at most, and what is left of their seven directions
        # are chances of the scenes, outlines among them.
        outlines.append(directions(seen, whole))
        effects = _effects(flat[here], code[here], (*OBJECT, "background", "light"))[: len(OBJECT)]
        objects.append(directions(effects, (*whole, *outlines[-1])))
    kinds = ([whole], objects, outlines)
    return tuple(torch.stack(basis) for each in kinds for basis in zip(*each, strict=True))


def _contrast(flat: Tensor, share: Tensor, code: Tensor) -> Tensor:
    """The unit mixture of channels (4,) along which the mean latents of colours and of backgrounds differ
    most; arguments as above. One for all: that of each colour and background is what a picture shows, but a
    network does not learn to weigh noise by it (`docs/LOG.md`)."""
    x = flat.view(len(flat), 4, -1)

    def means(weights: Tensor, column: int, name: str) -> list[Tensor]:
        inside = torch.einsum("ncp,np->nc", x, weights)
        rows = [code[:, column] == value for value in range(values(name))]
        return [inside[here].sum(0) / weights[here].sum().clamp(min=1) for here in rows]

    colours, grounds = means(share, COLOUR, "0.colour"), means(1 - share, BACKGROUND, "background")
    difference = torch.stack(colours)[:, None] - torch.stack(grounds)
    return torch.linalg.svd(difference.flatten(0, 1), full_matrices=False).Vh[0]


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
    """Noise (B, D) with the largest of its weights along `basis` (B, values, D) and that of `wanted` (B,) in
    each other's place."""
    weights = torch.einsum("bd,bvd->bv", eps, basis)
    largest = weights.argmax(1, keepdim=True)
    wanted = wanted[:, None]
    swapped = weights.scatter(1, wanted, weights.gather(1, largest))
    swapped = swapped.scatter(1, largest, weights.gather(1, wanted))
    return eps + torch.einsum("bv,bvd->bd", swapped - weights, basis)
