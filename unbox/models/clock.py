"""The clock of a sampling run: which step, timestep, branch and image each row of a UNet forward belongs to.

The step comes from the scheduler's timesteps and the branch from the pipeline's guidance; neither is ever
counted or guessed from batch size, and in the denoising loop finding them waits for no device.
`with clock(model) as now:` works around `model.generate`, around a bare `model.pipeline(...)` call, and
around calls of `model.unet`. The thread that has the clock has the model alone.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from tqdm.auto import tqdm

from unbox.errors import UnboxError
from unbox.models.finite import FiniteCheck
from unbox.models.offload_lookup import looked_up_once
from unbox.models.run_lock import exclusive
from unbox.models.timestep_table import TimestepTable
from unbox.stopping import stop_point


class Watched(Protocol):
    """What the clock needs of a model."""

    clock: "Clock | None"
    """The clock while the model is watched."""

    @property
    def pipelines(self) -> tuple[DiffusionPipeline, ...]:
        """Every pipeline that samples."""
        ...


@dataclass(frozen=True)
class Moment:
    """One UNet forward: the scheduler's step from 0, the timestep, and per batch row the branch and image."""

    step: int
    timestep: float
    branches: tuple[str, ...]
    samples: np.ndarray
    visits: int = 1
    """How often the scheduler lists this timestep: two-stage solvers come to a step twice."""


class Clock:
    """Step, timestep, branches and images of the present UNet forward; use `clock(model)` to get it."""

    def __init__(self) -> None:
        self._moment: Moment | None = None
        self._sampling: DiffusionPipeline | None = None
        self._samples: np.ndarray | None = None
        self._branches: tuple[str, ...] | None = None
        self._table: TimestepTable | None = None
        self.finite = FiniteCheck()
        """Looks for NaN and infinite numbers in what the run computes."""
        self._thread = threading.current_thread()
        self._intruder: str | None = None
        self._decoded = 0
        """Pictures that a VAE has decoded since the UNet ran: it may take them a few at a time."""

    @property
    def moment(self) -> Moment:
        """The present UNet forward, or the last one. Raises UnboxError before the first."""
        if self._moment is None:
            raise UnboxError("the clock has no step yet: step and branch are known once the UNet is called")
        return self._moment

    @property
    def step(self) -> int:
        """Index into the scheduler's timesteps, from 0."""
        return self.moment.step

    @property
    def timestep(self) -> float:
        """The timestep that the UNet is given, as in the scheduler's table."""
        return self.moment.timestep

    @property
    def branches(self) -> tuple[str, ...]:
        """Per batch row "cond" or "uncond"."""
        return self.moment.branches

    @property
    def samples(self) -> np.ndarray:
        """Per batch row the index of the image, int64 (rows,)."""
        return self.moment.samples

    @property
    def batch(self) -> np.ndarray | None:
        """Index of each image of the running batch, where the loop around the run has said so (`rows`)."""
        return self._samples

    @property
    def images(self) -> np.ndarray | None:
        """Index of each image of the running batch, or of the last UNet forward; None before the first."""
        if self._samples is not None or self._moment is None:
            return self._samples
        return np.fromiter(dict.fromkeys(self._moment.samples.tolist()), np.int64)

    @contextmanager
    def rows(
        self, *, samples: Sequence[int] | None = None, branches: Sequence[str] | None = None
    ) -> Iterator[None]:
        """Say what the rows are: `samples` the image of each row of one branch, `branches` of each row.

        For loops that know better than the pipeline: batches of a longer list, guidance run sequentially.
        """
        before = self._samples, self._branches
        self._samples = None if samples is None else np.asarray(samples, dtype=np.int64)
        self._branches = None if branches is None else tuple(branches)
        try:
            yield
        finally:
            self._samples, self._branches = before

    def _observe(
        self, pipeline: DiffusionPipeline, args: tuple[torch.Tensor, ...], kwargs: Mapping[str, torch.Tensor]
    ) -> None:
        stop_point()
        self._refuse_other_threads()
        sample = args[0] if args else kwargs["sample"]
        place = self._table_of(pipeline).find(args[1] if len(args) > 1 else kwargs["timestep"])
        rows, branches = len(sample), self._branches
        if branches is None:
            in_loop = pipeline is self._sampling
            guided = in_loop and pipeline.do_classifier_free_guidance
            branches = ("uncond",) * (rows // 2) + ("cond",) * (rows // 2) if guided else ("cond",) * rows
        images = rows // len(set(branches))
        samples = np.arange(images) if self._samples is None else self._samples
        samples = np.tile(samples, rows // len(samples))
        if len(branches) != rows or len(samples) != rows:
            raise UnboxError(
                f"the UNet was called with {rows} rows, but {len(branches)} branches and "
                f"{len(samples)} images are known; say what the rows are with clock.rows(samples=, branches=)"
            )
        self._moment = Moment(place.step, place.timestep, branches, samples, place.visits)
        self._decoded = 0

    def _table_of(self, pipeline: DiffusionPipeline) -> TimestepTable:
        """The scheduler's timesteps, read when they are new: at the beginning of a denoising loop."""
        timesteps = pipeline.scheduler.timesteps
        if self._table is None or not self._table.is_of(timesteps):
            self._table = TimestepTable.of(timesteps)
        return self._table

    def _refuse_other_threads(self) -> None:
        """Calls of a bare pipeline or UNet take no lock: one from another thread is an error in both."""
        me = threading.current_thread()
        if me is not self._thread:
            self._intruder = me.name
            raise UnboxError(
                f"thread '{me.name}' calls this model while thread '{self._thread.name}' has it; put the "
                "call inside `with model.exclusive():`, and it waits, or load the model a second time"
            )
        if self._intruder is not None:
            raise UnboxError(
                f"thread '{self._intruder}' called this model in the middle of a run of thread '{me.name}', "
                "which is spoilt; put bare calls of a pipeline inside `with model.exclusive():`"
            )

    @contextmanager
    def _loop(self, pipeline: DiffusionPipeline, bar: tqdm) -> Iterator[tqdm]:
        before, self._sampling = self._sampling, pipeline
        self._table_of(pipeline)  # waits for the device, which inside the loop would stop its queue
        try:
            with bar as inner:
                yield inner
            self._refuse_other_threads()
            self.finite.settings = _settings(pipeline)
            self.finite.look()
        finally:
            self._sampling = before
            self.finite.drop()

    def _note_prediction(
        self,
        args: tuple[torch.Tensor, ...],
        kwargs: Mapping[str, torch.Tensor],
        output: UNet2DConditionOutput | tuple[torch.Tensor, ...],
    ) -> None:
        prediction = output[0] if isinstance(output, tuple) else output.sample
        moment = self.moment
        self.finite.note(moment.step, moment.samples, args[0] if args else kwargs["sample"], prediction)

    def _check_picture(self, latents: torch.Tensor, picture: torch.Tensor, tiled: bool) -> None:
        """Called when a VAE has decoded: the one place of a run where its pictures are at hand."""
        self.finite.look()
        images = [] if self._moment is None else list(dict.fromkeys(self._moment.samples.tolist()))
        begin = self._decoded if self._decoded < len(images) else 0
        self._decoded = begin + len(picture)
        found = images[begin : self._decoded]
        known = found if len(found) == len(picture) and not tiled else None
        self.finite.check("the latents after the last step", latents, known)
        advice = ""
        if picture.dtype == torch.float16:
            advice = (
                "the VAE overflows in float16: load with dtype='bfloat16' or 'float32' (--dtype), or set "
                "force_upcast in the VAE's configuration"
            )
        self.finite.check("the decoded picture", picture, known, advice)


@contextmanager
def clock(model: Watched, doing: str = "a run", wait: bool = True) -> Iterator[Clock]:
    """Watch the UNets of `model`, which this thread then has alone, and give the `Clock`.

    Re-entrant: an inner clock is the outer one. `doing` and `wait`: as `unbox.models.run_lock.exclusive`.
    """
    with exclusive(model, doing, wait):
        if model.clock is None:
            with _begun(model) as now:
                yield now
        else:
            yield model.clock


@contextmanager
def _begun(model: Watched) -> Iterator[Clock]:
    now = Clock()
    with ExitStack() as stack:
        for pipeline in model.pipelines:
            stack.enter_context(looked_up_once(pipeline))
            stack.enter_context(_watched(pipeline, now))
        model.clock = now
        stack.callback(setattr, model, "clock", None)
        yield now
        now.finite.look()


@contextmanager
def _watched(pipeline: DiffusionPipeline, now: Clock) -> Iterator[None]:
    """Report the pipeline's UNet forwards and its denoising loop to the clock."""
    observe = lambda unet, args, kwargs: now._observe(pipeline, args, kwargs)  # noqa: E731
    note = lambda unet, args, kwargs, output: now._note_prediction(args, kwargs, output)  # noqa: E731
    handles = [
        pipeline.unet.register_forward_pre_hook(observe, with_kwargs=True, prepend=True),
        pipeline.unet.register_forward_hook(note, with_kwargs=True),
    ]
    decoder = getattr(pipeline.vae, "decoder", None)
    if decoder is not None:
        tiled = lambda: getattr(pipeline.vae, "use_tiling", False)  # noqa: E731
        decoded = lambda _, args, picture: now._check_picture(args[0], picture, tiled())  # noqa: E731
        handles.append(decoder.register_forward_hook(decoded))
    original, check_inputs = pipeline.progress_bar, pipeline.check_inputs

    def check(*args: object, **kwargs: object) -> object:
        now._refuse_other_threads()  # before the pipeline sets its scheduler
        return check_inputs(*args, **kwargs)

    pipeline.check_inputs = check
    # A diffusers pipeline holds its progress bar open for exactly the denoising loop. Only inside it does the
    # pipeline's guidance say what the rows are; outside it is left over from the last call.
    pipeline.progress_bar = lambda iterable=None, total=None: now._loop(pipeline, original(iterable, total))
    try:
        yield
    finally:
        del pipeline.progress_bar, pipeline.check_inputs
        for handle in handles:
            handle.remove()


def _settings(pipeline: DiffusionPipeline) -> str:
    """What decides how large a run's numbers get, for a message."""
    kind = str(next(pipeline.unet.parameters()).dtype).removeprefix("torch.")
    guidance = getattr(pipeline, "guidance_scale", None)
    return f", in {kind}" if guidance is None else f", at guidance {guidance:g} in {kind}"
