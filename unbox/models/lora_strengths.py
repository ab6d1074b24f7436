"""Strengths of LoRAs that differ between the images of a batch: each row's product times its own number."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unbox.errors import UnboxError
from unbox.models.clock import Clock, Watched, clock


@dataclass(frozen=True)
class LoraStrengthsHook:
    """Gives every row of the networks' layers the strengths of its image, in the place of those loaded."""

    strengths: Sequence[Mapping[str, float]]
    """Of each image: adapter -> strength. Adapters that are left out keep theirs."""

    @contextmanager
    def attach(self, model: Watched, rows: Sequence[int] | None = None) -> Iterator[None]:
        """Attach until the context ends. `rows` restricts it to those images.

        Raises UnboxError for adapters that the model does not have, and for a compiled UNet.
        """
        names = list(dict.fromkeys(name for each in self.strengths for name in each))
        pipeline = model.pipelines[0]
        active = pipeline.get_active_adapters() if pipeline.get_list_adapters() else ()
        for name in names:
            if name not in active:
                there = ", ".join(active) or "none"
                raise UnboxError(f"lora_strengths: the model has no LoRA '{name}'; it has {there}")
        with ExitStack() as stack:
            now = stack.enter_context(clock(model))
            for network in ("unet", "text_encoder", "text_encoder_2"):
                if (part := getattr(pipeline, network, None)) is not None:
                    _refuse_compiled(part)
                    self._attach(stack, now, part, network == "unet", names, rows)
            yield

    def _attach(
        self,
        stack: ExitStack,
        now: Clock,
        network: torch.nn.Module,
        of_steps: bool,
        names: Sequence[str],
        rows: Sequence[int] | None,
    ) -> None:
        """Hook a network: its forward begins with the images of its rows, each layer's with their numbers."""
        layers = [each for each in network.modules() if set(names) & set(getattr(each, "scaling", ()))]
        if not layers:
            return
        factors = _RowFactors(self.strengths, names, rows)

        def begin(_: torch.nn.Module, args: Any, kwargs: Any) -> None:
            samples = now.samples if of_steps else now.batch
            if samples is None:
                raise UnboxError("lora_strengths: text encoders were called for images that nobody has named")
            factors.begin(samples)

        stack.callback(network.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for layer in layers:
            before = _loaded(layer)
            stack.callback(_restore, layer, before)
            stack.callback(layer.register_forward_pre_hook(factors.putting(before)).remove)


class _RowFactors:
    """What the rows of a forward are multiplied by, on the device once for each batch."""

    def __init__(
        self, strengths: Sequence[Mapping[str, float]], names: Sequence[str], rows: Sequence[int] | None
    ) -> None:
        self._strengths, self._names, self._rows = strengths, names, rows
        self._tensors: dict[tuple[Any, ...], torch.Tensor | float] = {}
        self._samples: list[int] = []

    def begin(self, samples: np.ndarray) -> None:
        """The images of the rows of the forward that begins."""
        if samples.tolist() != self._samples:
            self._samples = samples.tolist()
            self._tensors.clear()

    def putting(self, loaded: Mapping[str, float]) -> Any:
        """A hook that puts a layer's numbers in before its forward. `loaded`: those that it has without."""

        def put(layer: Any, args: Any) -> None:
            for name in self._names:
                if name in loaded:
                    layer.scaling[name] = self._of(layer, name, loaded[name], args[0])

        return put

    def _of(self, layer: Any, name: str, loaded: float, x: torch.Tensor) -> torch.Tensor | float:
        rank = layer.r[name] ** (0.5 if (layer.use_rslora or {}).get(name) else 1)
        unit = layer.lora_alpha[name] / rank
        key = (name, unit, loaded, x.ndim, x.dtype, x.device)
        if key not in self._tensors:
            if len(x) != len(self._samples):
                raise UnboxError(f"lora_strengths: a layer has {len(x)} rows of {len(self._samples)} images")
            own = [
                unit * self._strengths[image][name] if self._mine(image, name) else loaded
                for image in self._samples
            ]
            alike = len(set(own)) == 1
            shape = (len(own), *(1 for _ in x.shape[1:]))
            self._tensors[key] = own[0] if alike else torch.tensor(own).reshape(shape).to(x.device, x.dtype)
        return self._tensors[key]

    def _mine(self, image: int, name: str) -> bool:
        return (self._rows is None or image in self._rows) and name in self._strengths[image]


def _loaded(layer: Any) -> dict[str, float]:
    """What peft multiplies a layer's adapters by."""
    return dict(layer.scaling)


def _restore(layer: Any, loaded: Mapping[str, float]) -> None:
    layer.scaling.update(loaded)


def _refuse_compiled(network: torch.nn.Module) -> None:
    """Hooks inside of what is compiled never fire."""
    if any(getattr(each, "_compiled_call_impl", None) is not None for each in network.modules()):
        raise UnboxError("lora_strengths cannot reach into compiled blocks: load the model without compile")
