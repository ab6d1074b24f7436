"""Forward hooks that read activations while a model runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TypeAlias

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from einops import rearrange

from unbox.capture.activations import layer_path, module_of, network_of
from unbox.capture.compiled import refuse_compiled
from unbox.capture.once import OnceRuns
from unbox.errors import UnboxError
from unbox.models.block_hooks import Handle, hook_block
from unbox.models.clock import Clock, Moment
from unbox.models.model import Model
from unbox.site import Activation, Site

#: What a hook is given of a forward: positional arguments, keyword arguments, what a module returns.
Args = tuple[torch.Tensor, ...]
Kwargs = Mapping[str, torch.Tensor]
ModuleOutput: TypeAlias = "torch.Tensor | tuple[torch.Tensor, ...] | Transformer2DModelOutput"

#: Gives what was read, (rows, y, x, channels) or (rows, tokens, channels), in a type (None: as it is
#: computed). Live: copy what is kept.
Values = Callable[[torch.dtype | None], torch.Tensor]

#: Called with the activation, the moment whose rows they are, and what gives them.
Observer = Callable[[Activation, Moment, Values], None]


@contextmanager
def watch(model: Model, now: Clock, activations: Sequence[Activation], observe: Observer) -> Iterator[None]:
    """Call `observe` for every forward that gives one of the activations; nothing is left behind.

    Raises UnboxError for modules that are compiled, where hooks would never fire; and after a UNet forward
    in which a site was not computed (a cached block): nothing is missed silently.
    """
    fired: set[Activation] = set()

    def noted(activation: Activation, moment: Moment, values: Values) -> None:
        fired.add(activation)
        observe(activation, moment, values)

    with ExitStack() as stack:
        components = {activation.site.component for activation in activations}
        once = stack.enter_context(OnceRuns(model, now).watching(components))
        for site in dict.fromkeys(activation.site for activation in activations):
            reader = _SiteReader(model, site, now, once, noted)
            for activation in activations:
                if activation.site == site:
                    for handle in reader.attach(activation):
                        stack.callback(handle.remove)
        for component in components & {"unet", "refiner"}:
            of_unet = [activation for activation in activations if activation.site.component == component]
            check = partial(_refuse_missed, of_unet, fired)
            stack.callback(network_of(model, of_unet[0].site).register_forward_hook(check).remove)
        yield


class _SiteReader:
    """Reads activations of one site."""

    def __init__(self, model: Model, site: Site, now: Clock, once: OnceRuns, observe: Observer) -> None:
        self.site, self.now, self.once, self.observe = site, now, once, observe
        self.network, self.module = network_of(model, site), module_of(model, site)
        self._grid: tuple[int, ...] = ()

    def attach(self, activation: Activation) -> Iterator[Handle]:
        """Hook what gives an activation."""
        kind, path = activation.kind, self.site.path
        if kind == "skip":
            _, level, _, place = path.split(".")
            up, read = (
                self._part(f"up_blocks.{level}", activation),
                partial(self._skip, activation, int(place)),
            )
            yield up.register_forward_pre_hook(read, with_kwargs=True)
        elif kind in ("update", "input", "output"):
            block = self._part(path, activation)
            yield hook_block(block, partial(self._block, activation))
        else:
            part = self._part(layer_path(self.site, kind, activation.layer), activation)
            if self.site.layout == "maps":
                yield self.module.register_forward_pre_hook(self._note_grid, with_kwargs=True)
            if kind == "ff_output":
                yield part.register_forward_hook(partial(self._part_output, activation))
            else:
                yield part.register_forward_pre_hook(partial(self._part_input, activation), with_kwargs=True)

    def _part(self, path: str, activation: Activation) -> torch.nn.Module:
        refuse_compiled(self.network, path, activation.name)
        return self.network.get_submodule(path)

    def _note_grid(self, module: torch.nn.Module, args: Args, kwargs: Kwargs) -> None:
        self._grid = tuple(hidden_states(args, kwargs).shape[-2:])

    def _skip(
        self, activation: Activation, place: int, module: torch.nn.Module, args: Args, kwargs: Kwargs
    ) -> None:
        skip = kwargs["res_hidden_states_tuple"][-1 - place]
        self._observe(activation, len(skip), partial(_in_type, spatial_last(skip)))

    def _block(
        self,
        activation: Activation,
        module: torch.nn.Module,
        args: Args,
        kwargs: Kwargs,
        output: ModuleOutput,
    ) -> None:
        given, made = hidden_states(args, kwargs), _made(output)
        if activation.kind == "update":
            self._observe(activation, len(made), partial(update, given, made))
        else:
            x = given if activation.kind == "input" else made
            self._observe(activation, len(x), partial(_in_type, spatial_last(x) if x.ndim == 4 else x))

    def _part_input(
        self, activation: Activation, module: torch.nn.Module, args: Args, kwargs: Kwargs
    ) -> None:
        self._positions(activation, hidden_states(args, kwargs))

    def _part_output(
        self, activation: Activation, module: torch.nn.Module, args: Args, output: torch.Tensor
    ) -> None:
        self._positions(activation, output)

    def _positions(self, activation: Activation, x: torch.Tensor) -> None:
        """(rows, positions, channels) of a layer's part."""
        x = x.unflatten(1, self._grid) if self.site.layout == "maps" else x
        self._observe(activation, len(x), partial(_in_type, x))

    def _observe(self, activation: Activation, rows: int, values: Values) -> None:
        if not self.site.once:
            self.observe(activation, self.now.moment, values)
        elif (moment := self.once.moment(self.site, rows)) is not None:
            repeats = len(moment.samples) // rows
            self.observe(activation, moment, partial(_repeated, values, repeats))


def hidden_states(args: Args, kwargs: Kwargs) -> torch.Tensor:
    """A module's input, however it is passed."""
    return args[0] if args else kwargs["hidden_states"]


def update(given: torch.Tensor, output: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Output minus input as (rows, y, x, channels) or (rows, tokens, channels), a new tensor; half floats are
    subtracted in float32.

    The paper's form of the update (arXiv 2410.22366); `dtype` None keeps the activations' own.
    """
    wide = torch.promote_types(output.dtype, torch.float32)
    difference = output.detach().to(wide) - given.detach().to(wide)
    return (spatial_last(difference) if difference.ndim == 4 else difference).to(dtype or output.dtype)


def spatial_last(x: torch.Tensor) -> torch.Tensor:
    """(rows, channels, y, x) as (rows, y, x, channels), a view."""
    return rearrange(x, "rows channels y x -> rows y x channels")


def _made(output: ModuleOutput) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output
    return output[0] if isinstance(output, tuple) else output.sample


def _in_type(x: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return x.detach().to(dtype or x.dtype)


def _repeated(values: Values, times: int, dtype: torch.dtype | None) -> torch.Tensor:
    """A text's rows for each of its images."""
    return values(dtype).repeat_interleave(times, 0) if times > 1 else values(dtype)


def _refuse_missed(
    wanted: Sequence[Activation],
    fired: set[Activation],
    network: torch.nn.Module,
    args: Args,
    output: ModuleOutput,
) -> None:
    missed = dict.fromkeys(each.site.name for each in wanted if each not in fired)
    fired.difference_update(wanted)
    if missed:
        raise UnboxError(
            f"{', '.join(missed)} did not run in this UNet forward (a cache such as DeepCache?), so "
            "there is nothing to record; turn the cache off"
        )
