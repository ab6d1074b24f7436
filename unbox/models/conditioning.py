"""SDXL's micro-conditioning, one per image."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch

from unbox.models.clock import Moment, Watched, clock
from unbox.models.devices import to_device
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

        ids = _TimeIds(self, rows)

        def condition(unet: torch.nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
            added = kwargs["added_cond_kwargs"]
            added = {**added, "time_ids": ids.of(now.moment, added["time_ids"])}
            return args, {**kwargs, "added_cond_kwargs": added}

        with ExitStack() as stack:
            now = stack.enter_context(clock(model))
            for pipeline in model.pipelines:
                stack.callback(pipeline.unet.register_forward_pre_hook(condition, with_kwargs=True).remove)
            yield


class _TimeIds:
    """Time ids of a run's forwards, sent to the device once for each batch of images."""

    def __init__(self, hook: MicroHook, images: Sequence[int] | None) -> None:
        self.hook, self.images = hook, images
        self._key: tuple[object, ...] = ()
        self._ids = self._chosen = torch.empty(0)

    def of(self, moment: Moment, given: torch.Tensor) -> torch.Tensor:
        """What the UNet is to be given instead of `given` (rows, 6 or 5)."""
        key = (moment.branches, tuple(moment.samples.tolist()), given.shape, given.dtype, given.device)
        if key != self._key:
            hook, refiner = self.hook, given.shape[-1] == 5
            rows = list(zip(moment.samples.tolist(), moment.branches, strict=True))
            chosen = [self.images is None or image in self.images for image, _ in rows]
            none = [0.0] * given.shape[-1]
            ids = [
                hook.micros[image].ids(hook.height, hook.width, refiner, branch) if mine else none
                for (image, branch), mine in zip(rows, chosen, strict=True)
            ]
            self._ids = to_device(torch.tensor(ids), given)
            self._chosen = to_device(torch.tensor(chosen)[:, None], given.device)
            self._key = key
        return torch.where(self._chosen, self._ids, given)
