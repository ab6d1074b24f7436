"""The neurons of RIEBench: hidden units of the feed-forward part (`ff.net.0`) of every layer of some blocks.

In SDXL's four blocks these are 10 layers of 5,120 units each, 204,800 in all; four steps at 512 pixels of one
image are 420 MB in half precision, and are kept on the CPU.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from unbox.models.clock import clock
from unbox.models.hooks import Hookable
from unbox.site import block_path

#: Layer's path in the UNet -> (step, position, unit), of one image's cond rows.
Neurons = dict[str, Tensor]


def neuron_layers(model: Hookable, blocks: Sequence[str]) -> dict[str, str]:
    """Path of each layer's hidden units in the UNet -> its block."""
    return {
        f"{block_path(block)}.transformer_blocks.{number}.ff.net.0": block
        for block in blocks
        for number in range(len(_layers(model.block(block))))
    }


def _layers(block: nn.Module) -> nn.ModuleList:
    layers = block.transformer_blocks
    assert isinstance(layers, nn.ModuleList)
    return layers


@contextmanager
def recorded_neurons(model: Hookable, blocks: Sequence[str]) -> Iterator[dict[int, Neurons]]:
    """Record the hidden units while images are made one by one; filled at the end: image, in the order
    made."""
    parts: dict[tuple[int, str], dict[int, Tensor]] = defaultdict(dict)
    found: dict[int, Neurons] = {}
    with ExitStack() as stack:
        now = stack.enter_context(clock(model))
        images, last = 0, -1

        def begin(*_: object) -> None:
            nonlocal images, last
            images += now.step <= last
            last = now.step

        stack.callback(model.unet.register_forward_pre_hook(begin).remove)
        for path in neuron_layers(model, blocks):

            def keep(_: nn.Module, args: tuple[Tensor, ...], output: Tensor, path: str = path) -> None:
                cond = now.branches.index("cond")
                parts[images, path][now.step] = output[cond].detach().cpu()

            stack.callback(model.unet.get_submodule(path).register_forward_hook(keep).remove)
        yield found
    for (image, path), steps in parts.items():
        found.setdefault(image, {})[path] = torch.stack([steps[step] for step in sorted(steps)])
