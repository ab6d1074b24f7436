"""The model under verification, and how it is drawn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from unbox.edit import Edit, Edits
from unbox.errors import UnboxError
from unbox.experiments.verify.verify_options import PROMPTS, VerifyOptions
from unbox.models import Model
from unbox.models.devices import synchronize
from unbox.models.seeds import generator
from unbox.sae import SAE
from unbox.site import DEFAULT_BLOCKS


@dataclass(frozen=True)
class Subject:
    """A model, its SAEs by name, and the settings of every run. Refuses (UnboxError) what draws from no
    prompt."""

    model: Model
    saes: Mapping[str, SAE]
    options: VerifyOptions
    fetch: bool = True
    """Whether published SAEs may be fetched."""

    def __post_init__(self) -> None:
        if self.model.system.image_to_image:
            raise UnboxError(
                f"{self.model.system.name} refines pictures, and verify draws from prompts: verify the model "
                "that it refines for, or sdxl-base+refiner"
            )

    @property
    def prompts(self) -> tuple[str, ...]:
        """What is drawn."""
        return self.options.prompt or PROMPTS

    @property
    def run(self) -> dict[str, Any]:
        """Steps, guidance and size: the options', or the system's own."""
        steps, guidance = self.options.settled(self.model.system.steps, self.model.system.guidance)
        height, width = self.options.size(self.model.size)
        return {"steps": steps, "guidance": guidance, "height": height, "width": width}

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """The paper's four blocks, or the first four that there are."""
        there = tuple(block for block in DEFAULT_BLOCKS if block in self.model.blocks)
        return there or self.model.blocks[:4]

    def width(self, block: str) -> int:
        """Channels of a block."""
        return int(self.model.block(block).in_channels)  # type: ignore[arg-type]

    @cached_property
    def bare(self) -> tuple[Tensor, Tensor]:
        """Latents of the first prompt by the plain diffusers pipeline, with nothing of ours on it, twice."""
        return self._bare_latents(), self._bare_latents()

    @cached_property
    def plain(self) -> tuple[Tensor, Tensor]:
        """The same by `generate`, without hooks and edits, twice."""
        return self.latents(), self.latents()

    def latents(self, edits: Edit | Edits | None = None) -> Tensor:
        """(4, height / 8, width / 8) of the first prompt's image, on the CPU."""
        call = {**self.run, "seed": self.options.seed, "output": "latent"}
        return self.model.generate(self.prompts[0], edits=edits, **call)[0].cpu()

    def _bare_latents(self) -> Tensor:
        run, pipeline = self.run, self.model.pipeline
        given: dict[str, Any] = {name: run[name] for name in ("height", "width")}
        if grid := self.model.system.grid(run["steps"]):
            given["timesteps"] = list(grid)
        if self.model.system.eta is not None:
            given["eta"] = self.model.system.eta
        before = getattr(pipeline, "_progress_bar_config", {})
        pipeline.set_progress_bar_config(**{**before, "disable": True})
        try:
            with self.model.exclusive():
                made = pipeline(
                    self.prompts[0], num_inference_steps=run["steps"], guidance_scale=run["guidance"],
                    generator=generator(self.options.seed), output_type="latent", **given,
                )  # fmt: skip
        finally:
            pipeline.set_progress_bar_config(**before)
        return made.images[0].cpu()

    def wait(self) -> None:
        """Wait until the device has done what was asked of it."""
        synchronize(self.model.device)


def difference(one: Tensor, other: Tensor) -> float:
    """Largest difference over the deviation of the first: 0 for equal bits."""
    if torch.equal(one, other):
        return 0.0
    spread = float(one.float().std()) or 1.0
    return float((one.float() - other.float()).abs().max()) / spread


def each_prompt(subject: Subject, count: int) -> Sequence[tuple[int, str]]:
    """The first prompts with the seeds of their images."""
    return [(subject.options.seed + i, prompt) for i, prompt in enumerate(subject.prompts[:count])]
