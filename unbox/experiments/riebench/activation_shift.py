"""What RIEBench adds to activations that no edit of an SAE's features says: whole updates, and neurons."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from unbox.errors import UnboxError
from unbox.models.clock import Clock, clock
from unbox.models.hooks import Hookable

Output: TypeAlias = "Tensor | tuple[Tensor, ...] | Transformer2DModelOutput"


@dataclass(frozen=True, eq=False)
class Shift:
    """What is added at one module: to some channels at every place."""

    added: Mapping[int, Tensor]
    """Step of the scheduler -> (place, channel)."""
    channels: Tensor | None = None
    """Indices of the channels; None: all."""

    def on(self, output: Tensor, step: int, rows: Sequence[int]) -> Tensor:
        """The output, (rows, place, d) or (rows, d, y, x), after the shift of some of its rows."""
        if step not in self.added or not rows:
            return output
        delta = self.added[step].to(output)
        whole = delta.new_zeros(len(delta), output.shape[2 if output.ndim == 3 else 1])
        if self.channels is None:
            whole = delta
        else:
            whole[:, self.channels.to(delta.device)] = delta
        if output.ndim == 4:
            whole = whole.T.reshape(output.shape[1:])
        if whole.shape != output.shape[1:]:
            raise UnboxError(
                f"what was recorded has {len(delta)} places, this run {output[0].numel()} numbers"
            )
        changed = output.clone()
        changed[list(rows)] += whole
        return changed


@dataclass(frozen=True, eq=False)
class ActivationShift:
    """A hook: adds to the outputs of modules of the UNet, by path."""

    shifts: Mapping[str, Shift]

    @contextmanager
    def attach(self, model: Hookable, rows: Sequence[int] | None) -> Iterator[None]:
        """Attach until the context ends; `rows`: images it applies to, None for all."""
        with ExitStack() as stack:
            now = stack.enter_context(clock(model))
            for path, shift in self.shifts.items():
                module = model.unet.get_submodule(path)
                stack.callback(module.register_forward_hook(partial(_shifted, shift, now, rows)).remove)
            yield


def _shifted(
    shift: Shift,
    now: Clock,
    images: Sequence[int] | None,
    module: nn.Module,
    args: tuple[Tensor, ...],
    output: Output,
) -> Output:
    rows = [row for row, image in enumerate(now.samples.tolist()) if images is None or image in images]
    if isinstance(output, Tensor):
        return shift.on(output, now.step, rows)
    changed = shift.on(output[0], now.step, rows)
    return (changed, *output[1:]) if isinstance(output, tuple) else type(output)(sample=changed)
