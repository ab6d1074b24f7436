"""Forward hooks that read a block's input and output while the UNet runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from einops import rearrange

from unbox.errors import UnboxError
from unbox.models.hooks import Hookable
from unbox.models.model import Model

#: What a hook is given of a forward: positional arguments, keyword arguments, what a block returns.
Args = tuple[torch.Tensor, ...]
Kwargs = Mapping[str, torch.Tensor]
BlockOutput: TypeAlias = "tuple[torch.Tensor, ...] | Transformer2DModelOutput"

#: Called with (block, input, output), both (rows, channels, height, width), live: copy what is kept.
Observer = Callable[[str, torch.Tensor, torch.Tensor], None]


@contextmanager
def watch(model: Model, blocks: Sequence[str], observe: Observer) -> Iterator[None]:
    """Call `observe` for every forward of the named blocks of `model`'s UNet; nothing is left behind.

    Raises UnboxError for unknown blocks; for a compiled UNet, where hooks would never fire; and after a UNet
    forward in which a block was not computed (a cached block): nothing is missed silently.
    """
    modules = {name: model.block(name) for name in blocks}
    refuse_compiled(model, modules)
    fired: set[str] = set()

    def hook(name: str) -> Callable:
        def read(module: torch.nn.Module, args: Args, kwargs: Kwargs, output: BlockOutput) -> None:
            fired.add(name)
            made = output[0] if isinstance(output, tuple) else output.sample
            observe(name, hidden_states(args, kwargs), made)

        return read

    def check(unet: torch.nn.Module, args: Args, output: BlockOutput) -> None:
        missed = [name for name in modules if name not in fired]
        fired.clear()
        if missed:
            raise UnboxError(
                f"{', '.join(missed)} did not run in this UNet forward (a cache such as DeepCache?), so "
                "there is nothing to record; turn the cache off"
            )

    with ExitStack() as stack:
        stack.callback(model.unet.register_forward_hook(check).remove)
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(hook(name), with_kwargs=True).remove)
        yield


def hidden_states(args: Args, kwargs: Kwargs) -> torch.Tensor:
    """A block's input, however it is passed."""
    return args[0] if args else kwargs["hidden_states"]


def update(given: torch.Tensor, output: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Output minus input as (rows, y, x, channels), a new tensor; half floats are subtracted in float32.

    The paper's form of the update (arXiv 2410.22366); `dtype` None keeps the activations' own.
    """
    wide = torch.promote_types(output.dtype, torch.float32)
    difference = output.detach().to(wide) - given.detach().to(wide)
    return spatial_last(difference).to(dtype or output.dtype)


def spatial_last(x: torch.Tensor) -> torch.Tensor:
    """(rows, channels, y, x) as (rows, y, x, channels), a view."""
    return rearrange(x, "rows channels y x -> rows y x channels")


def refuse_compiled(model: Hookable, modules: dict[str, torch.nn.Module]) -> None:
    """Raise UnboxError where hooks that are added would silently never fire."""
    for name, module in {"the UNet": model.unet, **modules}.items():
        whole = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        if whole or hasattr(module.forward, "_torchdynamo_orig_callable"):
            raise UnboxError(
                f"{name} is compiled as a whole, so hooks on it would never fire and nothing would be "
                "recorded; load with compile=True, or call unet.compile_repeated_blocks(), which leaves the "
                "blocks visible"
            )
