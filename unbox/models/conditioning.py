"""SDXL's micro-conditioning, one per image."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch

from unbox.models.clock import Watched, clock
from unbox.models.sampling_options import Pixels, Score
from unbox.validation import Pair, validated


@validated
class Micro:
    """What SDXL is told about an image besides its caption. Pixels, (height, width); None: the image's size.

    `aesthetic` (6.0 if None) is read by the refiner in the place of `target`. `negative` conditions the
    unconditional branch; None: the same sizes, and 2.5 for the aesthetic score.
    """

    original: Pair[Pixels] | None = None
    crop: Pair[Pixels] = (0, 0)
    target: Pair[Pixels] | None = None
    aesthetic: Score | None = None
    negative: "Micro | None" = None

    def ids(self, height: int, width: int, refiner: bool, branch: str) -> list[float]:
        """Time ids of one branch: original, crop, target (6 numbers) or, for the refiner, aesthetic (5)."""
        micro, score = self, 6.0 if self.aesthetic is None else self.aesthetic
        if branch == "uncond":
            micro = self.negative or replace(self, aesthetic=None)
            score = 2.5 if micro.aesthetic is None else micro.aesthetic
        last = (score,) if refiner else micro.target or (height, width)
        return [*(micro.original or (height, width)), *micro.crop, *last]


#: What SDXL's UNet is given by position, and by name as far as it is changed here.
Args = tuple[torch.Tensor, ...]
Kwargs = dict[str, dict[str, torch.Tensor]]


@dataclass(frozen=True)
class MicroHook:
    """Gives every UNet row its own time ids, by its image and branch.

    The pipeline repeats (negative, positive) ids as a block for a batch, while its rows are all negatives and
    then all positives: with negative sizes and more than one prompt, images get each other's branch. Here the
    ids come from the clock instead.
    """

    micros: Sequence[Micro]
    height: int
    width: int

    @contextmanager
    def attach(self, model: Watched, rows: Sequence[int] | None = None) -> Iterator[None]:
        """Attach until the context ends. `rows` restricts it to those images."""

        def condition(unet: torch.nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
            given = kwargs["added_cond_kwargs"]["time_ids"]
            refiner = given.shape[-1] == 5
            ids = [
                self.micros[image].ids(self.height, self.width, refiner, branch)
                if rows is None or image in rows
                else given[row].tolist()
                for row, (image, branch) in enumerate(zip(now.samples, now.branches, strict=True))
            ]
            added = {**kwargs["added_cond_kwargs"], "time_ids": torch.tensor(ids).to(given)}
            return args, {**kwargs, "added_cond_kwargs": added}

        with ExitStack() as stack:
            now = stack.enter_context(clock(model))
            for pipeline in model.pipelines:
                stack.callback(pipeline.unet.register_forward_pre_hook(condition, with_kwargs=True).remove)
            yield
