"""Recording into memory: `with record(model, blocks) as tape:` around any call of the pipeline."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Literal, NamedTuple

import torch

from unbox.capture.activation_hooks import Args, Kwargs, Values, watch
from unbox.capture.activations import activations_of, module_of, site_of
from unbox.capture.attention import KINDS, has_maps, watch_attention
from unbox.errors import UnboxError
from unbox.models.clock import Clock, Moment, clock
from unbox.models.devices import find_device
from unbox.models.model import Model
from unbox.site import BRANCHES, DEFAULT_BLOCKS, LAYER_KINDS, Activation, Site, SiteName
from unbox.validation import Index, Some, checked

#: What can be recorded of a site: kinds of vectors (`heads` is both kinds of heads), and attention maps.
RecordedKind = Literal[
    "update",
    "input",
    "output",
    "skip",
    "heads",
    "self_heads",
    "cross_heads",
    "ff_input",
    "ff_output",
    "self",
    "cross",
]


#: Makes what is kept of values.
Copy = Callable[[Values], torch.Tensor]

#: Images, step and branches of a forward's rows.
Rows = tuple[tuple[int, ...], int, tuple[str, ...]]


class RecordedBatch(NamedTuple):
    """What one UNet forward gave at one site: row r belongs to image samples[r] and branch branches[r]."""

    samples: tuple[int, ...]
    step: int
    branches: tuple[str, ...]
    rows: torch.Tensor


class Tape:
    """What was recorded. `tape["mid.0"]`: (sample, step, branch, y, x, channel) of the first kind asked for.

    Images count on over several calls of the pipeline. `steps` and `branches` name those axes. Of a step that
    a solver comes to twice (Heun: first at a guess of its latents, then at them) the last visit is kept.
    """

    def __init__(self, model: Model, now: Clock, recorded: Mapping[str, Sequence[str]]) -> None:
        """`recorded`: site -> the kinds that are recorded of it."""
        self.blocks = tuple(recorded)
        self.what = tuple(dict.fromkeys(kind for kinds in recorded.values() for kind in kinds))
        self._model, self._clock, self._recorded = model, now, recorded
        self._parts: dict[tuple[str, str, int], dict[Rows, RecordedBatch]] = defaultdict(dict)
        self._visits: dict[tuple[int | str, str, int], int] = defaultdict(int)
        self._first = self._end = 0

    def __repr__(self) -> str:
        blocks, what = ", ".join(self.blocks), ", ".join(self.what)
        return f"Tape({blocks}: {what}; {len(self)} images, steps {self.steps})"

    def __len__(self) -> int:
        """Images recorded so far."""
        return self._end

    @property
    def steps(self) -> tuple[int, ...]:
        """The scheduler's step indices that were recorded, ascending; (0,) where only text encoders or the
        VAE were."""
        every = [
            (self._model.all_sites[name].once, parts.values()) for (name, _, _), parts in self._parts.items()
        ]
        of_steps = [parts for once, parts in every if not once] or [parts for _, parts in every]
        return _steps(part for parts in of_steps for part in parts)

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that were recorded, "cond" first."""
        return _branches(part for parts in self._parts.values() for part in parts.values())

    def __getitem__(self, block: str) -> torch.Tensor:
        """`read(block)` of the first kind that was recorded of it."""
        return self.read(block, self._recorded.get(block, self.what)[0])

    def read(self, block: str, what: str = "update", branch: str | None = None) -> torch.Tensor:
        """One kind of record of a site, on the tape's device.

        "update", "input", "output", "skip": (sample, step, branch, y, x, channel), of a text encoder's layer
        (sample, 1, branch, token, channel). Of blocks, with an axis of layers: "ff_input", "ff_output":
        (sample, step, branch, layer, y, x, channel); "self_heads", "cross_heads": (sample, step, branch,
        layer, y, x, head, channel); "self", "cross": (sample, step, branch, layer, head, y, x, key). Steps
        are those that the site's network ran. With `branch` that branch alone, without its axis.
        Raises UnboxError for what was not recorded.
        """
        if what not in self._recorded.get(block, ()):
            there = "; ".join(f"{', '.join(kinds)} of {name}" for name, kinds in self._recorded.items())
            raise UnboxError(f"the tape has no {what} of {block}; it records {there}")
        layers = sorted(layer for name, kind, layer in self._parts if (name, kind) == (block, what))
        if not layers:
            raise UnboxError("nothing was recorded: no image was made while the tape ran")
        site = self._model.all_sites[block]
        together = [
            part
            for (name, _, _), parts in self._parts.items()
            if self._model.all_sites[name].component == site.component
            for part in parts.values()
        ]
        wanted = _branches(together) if branch is None else (branch,)
        axes = _steps(together), wanted
        of_layers = [list(self._parts[block, what, n].values()) for n in layers]
        tables = [self._assemble(parts, f"{what} of {block}", *axes) for parts in of_layers]
        in_layers = what in (*KINDS, *LAYER_KINDS) and site.layout == "maps"
        table = torch.stack(tables, dim=3) if in_layers else tables[0]
        if what in ("self_heads", "cross_heads"):
            table = table.unflatten(-1, (self._heads(site, what), -1))
        return table if branch is None else table[:, :, 0]

    def _assemble(
        self, parts: Sequence[RecordedBatch], name: str, steps: Sequence[int], branches: Sequence[str]
    ) -> torch.Tensor:
        shapes = {part.rows.shape[1:] for part in parts}
        if len(shapes) > 1:
            raise UnboxError(f"the {name} has several sizes, {sorted(map(tuple, shapes))}; record them apart")
        table = parts[0].rows.new_empty((self._end, len(steps), len(branches), *shapes.pop()))
        missing = {(i, s, b) for i in range(self._end) for s in steps for b in branches}
        for part in parts:
            for sample, branch, row in zip(part.samples, part.branches, part.rows, strict=True):
                if branch in branches:
                    table[sample, steps.index(part.step), branches.index(branch)] = row
                    missing.discard((sample, part.step, branch))
        if missing:
            sample, step, branch = min(missing)
            raise UnboxError(
                f"image {sample} has no {branch} at step {step} (a run that was stopped, or guidance in some "
                "steps only); read one branch with tape.read(block, branch=...), and record runs apart"
            )
        return table

    def _heads(self, site: Site, what: str) -> int:
        """How many heads the attention of a site has."""
        module = module_of(self._model, site)
        if site.layout == "tokens":
            return int(module.self_attn.num_heads)  # type: ignore[union-attr, arg-type]
        layer = module.transformer_blocks[0]  # type: ignore[index]
        return int(layer.attn1.heads if what == "self_heads" else layer.attn2.heads)  # type: ignore[union-attr, arg-type]

    def _begin(self, unet: torch.nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Before each UNet forward: tell a new call of the pipeline from the next step of this one.

        A call visits an image's step as often as the scheduler lists its timestep (two-stage solvers: twice).
        """
        moment = self._clock.moment
        self._visit(moment.step, moment, moment.visits)

    def _visit(self, what: int | str, moment: Moment, allowed: int = 1) -> None:
        """Count images on where what is visited has been in this call of the pipeline already."""
        keys = [(what, b, int(i)) for b, i in zip(moment.branches, moment.samples, strict=True)]
        if any(self._visits[key] >= allowed for key in keys):
            self._visits.clear()
            self._first = self._end
        for key in keys:
            self._visits[key] += 1
        self._end = max(self._end, self._first + 1 + int(moment.samples.max()))

    def _append(self, site: Site, kind: str, layer: int, moment: Moment, rows: torch.Tensor) -> None:
        samples = tuple(self._first + int(i) for i in moment.samples)
        self._end = max(self._end, 1 + max(samples))
        parts, key = self._parts[site.name, kind, layer], (samples, moment.step, moment.branches)
        parts.pop(key, None)  # the last visit comes last
        parts[key] = RecordedBatch(*key, rows)

    def _keep(self, copy: Copy, activation: Activation, moment: Moment, values: Values) -> None:
        """Keep what an activation gave; what runs before the UNet begins a call."""
        if activation.site.once and not activation.site.name.startswith("vae.decoder"):
            self._visit(activation.name, moment)
        self._append(activation.site, activation.kind, activation.layer or 0, moment, copy(values))


def _steps(parts: Iterable[RecordedBatch]) -> tuple[int, ...]:
    return tuple(sorted({part.step for part in parts}))


def _branches(parts: Iterable[RecordedBatch]) -> tuple[str, ...]:
    found = {branch for part in parts for branch in part.branches}
    return tuple(branch for branch in BRANCHES if branch in found)


@contextmanager
def record(
    model: Model,
    blocks: Sequence[str] | str = DEFAULT_BLOCKS,
    what: Sequence[str] | str = ("update",),
    *,
    layers: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    wait: bool = True,
) -> Iterator[Tape]:
    """Record sites of `model` inside any call of its pipeline; gives the `Tape`.

    `blocks`: of the UNet, and other sites: `refiner.mid.0`, `text.2.30`, `vae.decoder.mid`. `what`: "update"
    (output minus input), "input", "output", "skip" (the skip connection that enters before a block of the up
    side), what heads write ("self_heads", "cross_heads", or "heads" for both), the feed-forward part
    ("ff_input", "ff_output"), and "self" and "cross" attention maps (these of the transformer `layers`
    chosen, None for all); each site gives the kinds that it has. Records are copies on `device`, in `dtype`
    or the activations' own. What is recorded is the block's own output: edits attached inside this context
    come after. Everything is taken off at the end, after an exception too. Until then this thread has the
    model alone; where another has it, this one waits or, without `wait`, raises UnboxError that names it.
    Raises UnboxError for sites and kinds that there are not, and for models where hooks would miss something.
    """
    blocks = tuple(dict.fromkeys(checked(Some[SiteName], "blocks", blocks, "record")))
    what = tuple(dict.fromkeys(checked(Some[RecordedKind], "what", what, "record")))
    device = find_device(device)
    if layers is not None:
        layers = checked(Some[Index], "layers", layers, "record")
    maps = [kind for kind in what if kind in KINDS]
    sites = [site_of(model, name) for name in blocks]
    kinds = [kind for kind in what if kind not in KINDS]
    mapped = [site for site in sites if has_maps(site)] or sites if maps else []
    others = {site.name for site in mapped}
    activations = activations_of(model, blocks, kinds, layers, others) if kinds else ()
    found: dict[str, list[str]] = {site.name: [] for site in sites}
    for activation in activations:
        found[activation.site.name].append(activation.kind)
    for name in others:
        found[name] += maps
    recorded = {name: tuple(dict.fromkeys(some)) for name, some in found.items()}

    def copy(values: Values) -> torch.Tensor:
        rows = values(dtype)
        return torch.empty(rows.shape, dtype=rows.dtype, device=device).copy_(rows)

    with ExitStack() as stack:
        now = stack.enter_context(clock(model, "recording", wait))
        tape = Tape(model, now, recorded)
        for pipeline in model.pipelines:
            stack.callback(pipeline.unet.register_forward_pre_hook(tape._begin, with_kwargs=True).remove)
        stack.enter_context(watch(model, now, activations, partial(tape._keep, copy)))
        if maps:

            def append(site: Site, kind: str, layer: int, x: torch.Tensor) -> None:
                tape._append(site, kind, layer, now.moment, copy(lambda kind: x.to(kind or x.dtype)))

            stack.enter_context(watch_attention(model, mapped, maps, layers, append))
        yield tape
