"""SDXL's micro-conditioning, one per image, and the aspect-ratio buckets that it was trained on."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from unbox.errors import UnboxError
from unbox.models.clock import clock

if TYPE_CHECKING:
    from unbox.models.model import Model


@dataclass(frozen=True)
class Micro:
    """What SDXL is told about an image besides its caption. Pixels, (height, width); None: the image's size.

    `aesthetic` (6.0 if None) is read by the refiner in the place of `target`. `negative` conditions the
    unconditional branch; None: the same sizes, and 2.5 for the aesthetic score.
    """

    original: tuple[int, int] | None = None
    crop: tuple[int, int] = (0, 0)
    target: tuple[int, int] | None = None
    aesthetic: float | None = None
    negative: "Micro | None" = None

    def ids(self, height: int, width: int, refiner: bool, branch: str) -> list[float]:
        """Time ids of one branch: original, crop, target (6 numbers) or, for the refiner, aesthetic (5)."""
        own, score = self, 6.0 if self.aesthetic is None else self.aesthetic
        if branch == "uncond":
            own = self.negative or replace(self, aesthetic=None)
            score = 2.5 if own.aesthetic is None else own.aesthetic
        last = (score,) if refiner else own.target or (height, width)
        return [*(own.original or (height, width)), *own.crop, *last]


@dataclass(frozen=True)
class MicroInstrument:
    """Gives every UNet row its own time ids, by its image and branch.

    The pipeline repeats (negative, positive) ids as a block for a batch, while its rows are all negatives and
    then all positives: with negative sizes and more than one prompt, images get each other's branch. Here the
    ids come from the run's clock instead.
    """

    micros: Sequence[Micro]
    height: int
    width: int

    @contextmanager
    def attach(self, model: "Model", rows: Sequence[int] | None = None) -> Iterator[None]:
        """Attach until the context ends. `rows` restricts it to those images."""

        def condition(unet: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            given = kwargs["added_cond_kwargs"]["time_ids"]
            refiner = given.shape[-1] == 5
            ids = [
                self.micros[image].ids(self.height, self.width, refiner, branch)
                if rows is None or image in rows
                else given[row].tolist()
                for row, (image, branch) in enumerate(zip(run.samples, run.branches, strict=True))
            ]
            added = {**kwargs["added_cond_kwargs"], "time_ids": torch.tensor(ids).to(given)}
            return args, {**kwargs, "added_cond_kwargs": added}

        with ExitStack() as stack:
            run = stack.enter_context(clock(model))
            for pipeline in model.pipelines:
                hook = pipeline.unet.register_forward_pre_hook(condition, with_kwargs=True)
                stack.callback(hook.remove)
            yield


#: SDXL's training sizes, (height, width): multiples of 64 near 1024^2 pixels (arXiv 2307.01952, appendix I).
BUCKETS: tuple[tuple[int, int], ...] = (
    *((512, w) for w in (2048, 1984, 1920, 1856)),
    *((576, w) for w in (1792, 1728, 1664)),
    *((640, w) for w in (1600, 1536)),
    *((704, w) for w in (1472, 1408, 1344)),
    *((768, w) for w in (1344, 1280)),
    *((832, w) for w in (1216, 1152)),
    *((896, w) for w in (1152, 1088)),
    *((960, w) for w in (1088, 1024)),
    *((1024, w) for w in (1024, 960)),
    *((1088, w) for w in (960, 896)),
    *((1152, w) for w in (896, 832)),
    *((1216, w) for w in (832,)),
    *((1280, w) for w in (768,)),
    *((1344, w) for w in (768,)),
    *((h, 704) for h in (1408, 1472)),
    *((h, 640) for h in (1536, 1600)),
    *((h, 576) for h in (1664, 1728, 1792)),
    *((h, 512) for h in (1856, 1920, 1984, 2048)),
)


def nearest_bucket(height: float, width: float, *, side: int = 1024) -> tuple[int, int]:
    """The bucket whose aspect ratio is nearest (in its logarithm), scaled to a model of native `side`.

    `height` and `width` in any unit: only their ratio counts. Scaled sizes are rounded to multiples of 8.
    """
    if height <= 0 or width <= 0:
        raise UnboxError(f"an image of {height} x {width} has no aspect ratio; both must be positive")
    ratio = torch.tensor([h / w for h, w in BUCKETS]).log()
    best = int((ratio - torch.tensor(height / width).log()).abs().argmin())
    h, w = BUCKETS[best]
    return (h, w) if side == 1024 else (round(h * side / 1024 / 8) * 8, round(w * side / 1024 / 8) * 8)
