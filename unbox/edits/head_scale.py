"""Single attention heads ablated or scaled, in any transformer layer of a block."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch

from unbox.capture.activations import check_layers
from unbox.capture.attention import KINDS
from unbox.capture.compiled import refuse_compiled
from unbox.edit import Branch
from unbox.errors import FieldError
from unbox.models.clock import clock
from unbox.models.hooks import Hookable
from unbox.site import BlockName, block_path
from unbox.validation import Index, Pair, Real, Some, StepIndex, validated


@validated
class HeadScale:
    """What heads of a block's attention write, multiplied before it is mixed (`to_out`); for
    `generate(edits=...)` or `with scale.attach(model):`."""

    block: BlockName
    heads: Some[Index]
    """Numbers of the heads, in each of the layers."""
    value: Real = 0.0
    """0 takes them out, 1 changes nothing."""
    kind: Literal["cross", "self"] = "cross"
    """Attention to the text's tokens, or to the picture's own places."""
    layers: Some[Index] | None = None
    """Transformer layers of the block; None: all."""
    steps: Pair[StepIndex] | None = None
    """Half-open range of the scheduler's steps; None: all."""
    branch: Branch = "both"

    def __post_init__(self) -> None:
        if self.branch == "contrast":
            raise FieldError("", "branch", self.branch, "should be one of 'both', 'cond' or 'uncond'")

    @contextmanager
    def attach(self, model: Hookable, rows: Sequence[int] | None = None) -> Iterator[None]:
        """On for the images `rows` (None: all) until the context ends. Raises UnboxError, before anything is
        installed, for layers or heads that are not there."""
        block: Any = model.block(self.block)
        layers = check_layers(self.block, block, self.layers)
        mixers = []
        for layer in layers:
            place = f"{block_path(self.block)}.transformer_blocks.{layer}.{KINDS[self.kind]}"
            refuse_compiled(model.unet, place, f"{self.kind} attention of {self.block}")
            attention = getattr(block.transformer_blocks[layer], KINDS[self.kind])
            if wrong := next((head for head in self.heads if head >= attention.heads), None):
                rule = f"should be one of {self.block}'s heads: 0 to {attention.heads - 1}"
                raise FieldError("HeadScale", "heads", wrong, rule)
            mixers.append((attention.to_out[0], attention.heads))
        images = None if rows is None else frozenset(int(row) for row in rows)
        with ExitStack() as stack:
            now = stack.enter_context(clock(model))

            def scaled(heads: int) -> Any:
                def scale(
                    _: torch.nn.Module, args: tuple[torch.Tensor, ...]
                ) -> tuple[torch.Tensor, ...] | None:
                    acting = self._acting(now.step, now.branches, now.samples.tolist(), images)
                    if not any(acting):
                        return None
                    written = args[0].unflatten(-1, (heads, -1)).clone()
                    place = torch.tensor([row for row, on in enumerate(acting) if on], device=written.device)
                    own = torch.tensor(self.heads, device=written.device)
                    written[place[:, None], :, own] *= self.value
                    return (written.flatten(-2), *args[1:])

                return scale

            for mixer, heads in mixers:
                stack.callback(mixer.register_forward_pre_hook(scaled(heads)).remove)
            yield

    def _acting(
        self, step: int, branches: Sequence[str], samples: Sequence[int], images: frozenset[int] | None
    ) -> list[bool]:
        """Whether each row of a batch is changed."""
        if self.steps is not None and not self.steps[0] <= step < self.steps[1]:
            return [False] * len(branches)
        return [
            self.branch in ("both", branch) and (images is None or image in images)
            for branch, image in zip(branches, samples, strict=True)
        ]
