"""A model ready to run: a plain diffusers pipeline, and the row that says how it is sampled."""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from unbox.errors import UnboxError
from unbox.installed_versions import version
from unbox.model_identity import model_identity
from unbox.models.adapters import adapter_strengths
from unbox.models.clock import Clock
from unbox.models.generate import generate
from unbox.models.run_lock import exclusive
from unbox.models.sites import all_sites, block_sites
from unbox.models.systems import System
from unbox.site import Site, block_path

_LIBRARIES = ("torch", "diffusers", "transformers", "peft")


class Model:
    """What `load` gives. `pipeline` is the plain diffusers pipeline, `system` the row of data it runs by.

    `refiner` is the second pipeline of an ensemble, or None. `source` says where the weights came from.
    """

    generate = generate

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        system: System,
        source: str = "",
        refiner: DiffusionPipeline | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.system = system
        self.source = source
        self.refiner = refiner
        self.controlnet: torch.nn.Module | None = getattr(pipeline, "controlnet", None)
        """What follows `control` pictures (`load_controlnet` of `unbox.models`)."""
        self.clock: Clock | None = None
        """The clock while the model is watched (`unbox.models.clock.clock`)."""

    def __repr__(self) -> str:
        return f"Model({self.system.name}, {self.source}, {self.dtype}, {self.device})"

    @property
    def pipelines(self) -> tuple[DiffusionPipeline, ...]:
        """The base pipeline and, in an ensemble, the refiner's."""
        return (self.pipeline,) if self.refiner is None else (self.pipeline, self.refiner)

    @property
    def unet(self) -> torch.nn.Module:
        """The UNet of the base pipeline."""
        return self.pipeline.unet

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes (under offload: the accelerator)."""
        return self.pipeline._execution_device

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's weights' type."""
        return self.pipeline.unet.dtype

    @property
    def size(self) -> int:
        """Side of the native square image in pixels."""
        return self.system.size or self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor

    @cached_property
    def sites(self) -> dict[str, Site]:
        """Short name -> site of each of the UNet's transformer blocks, in the order of the forward pass."""
        return block_sites(self.pipeline.unet)

    @cached_property
    def all_sites(self) -> dict[str, Site]:
        """Short name -> site of all that can be recorded: blocks, text encoders, VAE, a refiner's blocks."""
        return all_sites(self.pipelines)

    @property
    def blocks(self) -> tuple[str, ...]:
        """Short names of the UNet's transformer blocks, in the order of the forward pass."""
        return tuple(self.sites)

    def block(self, name: str) -> torch.nn.Module:
        """The transformer block of a short name. Raises UnboxError listing the blocks that exist."""
        return self.unet.get_submodule(self.site(name).path)

    def site(self, name: str) -> Site:
        """The site of a short name. Raises UnboxError listing the blocks that exist."""
        block_path(name)
        if name not in self.sites:
            raise UnboxError(f"this model has no block '{name}'; it has {', '.join(self.blocks)}")
        return self.sites[name]

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the active LoRA adapters."""
        return tuple(self.pipeline.get_active_adapters()) if self.pipeline.get_list_adapters() else ()

    def exclusive(self, wait: bool = True) -> AbstractContextManager[None]:
        """Have the model alone for bare calls of its pipeline: other threads wait until the context ends.

        `generate`, `record` and edits do so by themselves. Where another thread has it this one waits or,
        without `wait`, is refused: UnboxError names that thread.
        """
        return exclusive(self, "calls of its own", wait)

    @contextmanager
    def unadapted(self) -> Iterator["Model"]:
        """Inside, the LoRA adapters are off: the same model before alignment or distillation."""
        if not self.adapters:
            raise UnboxError(f"{self.system.name} has no LoRA adapter to turn off; its weights are whole")
        with exclusive(self, "a run without its LoRA adapters"):
            self.pipeline.disable_lora()
            try:
                yield self
            finally:
                self.pipeline.enable_lora()

    @property
    def fingerprint(self) -> dict[str, Any]:
        """All that is known of what decides the images besides the call: system, scheduler, weights, adapters
        (and their strengths, where they are not 1), libraries; and where the weights came from."""
        strengths = adapter_strengths(self.networks(), self.adapters)
        return {
            "system": self.system.to_json(),
            "source": self.source,
            "scheduler": {
                key: value for key, value in self.pipeline.scheduler.config.items() if not key.startswith("_")
            }
            | {"class": type(self.pipeline.scheduler).__name__},
            "weights": self.weight_hashes(),
            "adapters": list(self.adapters),
            **({"strengths": strengths} if strengths else {}),
            "dtype": str(self.dtype).removeprefix("torch."),
            "libraries": {name: version(name) for name in _LIBRARIES},
        }

    @property
    def identity(self) -> str:
        """Short name, hexadecimal, of what decides the images: equal for models that make equal ones,
        wherever they came from and run (`model_identity`). A few seconds for SDXL, whose weights are read."""
        return model_identity(self.fingerprint)

    @property
    def unet_fingerprint(self) -> dict[str, Any]:
        """What of the fingerprint is of the UNet, on which updates depend; hashes no more than that."""
        strengths = adapter_strengths([("unet", self.unet)], self.adapters)
        return {
            "system": {"name": self.system.name},
            "weights": {"unet": weight_hash(self.unet)},
            "adapters": list(self.adapters),
            **({"strengths": strengths} if strengths else {}),
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def networks(self) -> Iterator[tuple[str, torch.nn.Module]]:
        """The networks of the pipelines with their names, in a fixed order."""
        for prefix, pipeline in zip(("", "refiner."), self.pipelines, strict=False):
            for name, part in sorted(pipeline.components.items()):
                if isinstance(part, torch.nn.Module):
                    yield f"{prefix}{name}", part
        if self.controlnet is not None and "controlnet" not in self.pipeline.components:
            yield "controlnet", self.controlnet

    def weight_hashes(self) -> dict[str, str]:
        """SHA-256 of each part's weights in memory (UNet, VAE, text encoders), a few seconds for SDXL."""
        return {name: weight_hash(part) for name, part in self.networks()}


def weight_hash(module: torch.nn.Module) -> str:
    """SHA-256 in hexadecimal over a module's tensors: names, types, shapes and bytes, sorted by name.

    A VAE that is computed in float32 and came in half precision is hashed as it came.
    """
    digest = hashlib.sha256()
    stored: torch.dtype | None = getattr(module, "nominal", None)
    for name, tensor in sorted(_tensors(module).items()):
        tensor = tensor if stored is None else tensor.to(stored)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _tensors(module: torch.nn.Module) -> dict[str, Any]:
    """A module's tensors by name, also where sequential offload has left empty ones in their places."""
    state = module.state_dict()
    if not any(tensor.is_meta for tensor in state.values()):
        return state
    from accelerate.utils.modeling import get_state_dict_offloaded_model

    return get_state_dict_offloaded_model(module)
