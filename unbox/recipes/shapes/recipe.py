"""The whole recipe, stage by stage; each stage resumes, and a finished one is loaded."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    EulerAncestralDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from activation_store.files import publish_folder
from unbox.recipes.shapes import distill_turbo, train_detector, train_text_encoders, train_unet, train_vae
from unbox.recipes.shapes.training_pictures import Pictures, make_pictures
from unbox.recipes.shapes.weights_card import write_card
from unbox.recipes.training_loop import StagePlan, finished
from unbox.sae.safetensors_io import disk_refusals, write_tensors
from unbox.shapes.detector import Detector
from unbox.validation import Count, validated


@validated
class Sizes:
    """How many scenes each stage draws (seeds 1-4), and how many samples the few-step finish learns from."""

    vae: Count = 6_000
    text: Count = 20_000
    unet: Count = 40_000
    detector: Count = 30_000
    pairs: Count = 4_096


@dataclass(frozen=True)
class ShapesRecipe:
    """Makes `shapes-base`, `shapes-turbo` and the detector in `folder`."""

    folder: Path
    sizes: Sizes = field(default_factory=Sizes)
    plans: dict[str, StagePlan] = field(
        default_factory=lambda: {
            "vae": train_vae.PLAN,
            "text": train_text_encoders.PLAN,
            "base": train_unet.BASE,
            "turbo": distill_turbo.TURBO,
            "detector": train_detector.PLAN,
        }
    )

    def with_minutes(self, **minutes: float | None) -> "ShapesRecipe":
        """The same recipe with other lengths, in minutes, for the plans named; None keeps a plan."""
        given = {name: limit for name, limit in minutes.items() if limit is not None}
        plans = {name: replace(self.plans[name], minutes=limit) for name, limit in given.items()}
        return replace(self, plans=self.plans | plans)

    def _pictures(self, stage: str, seed: int, measured: str = "") -> Pictures:
        """The stage's training set; none where it has finished (and `measured`, a file of what is measured on
        the set after training, is there) and will only be loaded."""
        loaded = finished(stage, self.folder) and (self.folder / measured).exists()
        return make_pictures(0 if loaded else getattr(self.sizes, stage), seed)

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """Kept in the folder: learned again it may number words otherwise than the encoders know them."""
        folder = self.folder / "tokenizer"
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with publish_folder(folder) as new:
                train_text_encoders.make_tokenizer().save_pretrained(new)
        return CLIPTokenizer.from_pretrained(folder)

    @cached_property
    def vae(self) -> AutoencoderKL:
        data = self._pictures("vae", seed=1, measured=train_vae.MEASURED)
        return train_vae.train_vae(data, self.folder, self.plans["vae"])

    @cached_property
    def text(self) -> train_text_encoders.TextPair:
        data = self._pictures("text", seed=2)
        return train_text_encoders.train_text(data, self.tokenizer, self.folder, self.plans["text"])

    @cached_property
    def data(self) -> Pictures:
        return make_pictures(self.sizes.unet, seed=3)

    @cached_property
    def latents(self) -> Tensor:
        """The training pictures as latents, float16, kept beside the checkpoints."""
        file = self.folder / "latents.safetensors"
        if not file.exists():
            latents = train_vae.encode(self.vae, self.data, np.arange(len(self.data)))
            write_tensors(file, {"latents": latents.half()})
        return load_file(file)["latents"]

    @cached_property
    def conditions(self) -> train_unet.Conditions:
        return train_unet.Conditions(self.text, self.tokenizer)

    @cached_property
    def base(self) -> UNet2DConditionModel:
        return train_unet.train_base(
            self.data, self.latents, self.conditions, self.folder, self.plans["base"]
        )

    @cached_property
    def pairs(self) -> dict[str, Tensor]:
        return distill_turbo.make_pairs(self.base, self.data, self.conditions, self.folder, self.sizes.pairs)

    @cached_property
    def turbo(self) -> UNet2DConditionModel:
        return distill_turbo.distill_turbo(
            self.base, self.data, self.latents, self.conditions, self.pairs, self.folder, self.plans["turbo"]
        )

    @cached_property
    def detector(self) -> Detector:
        data = self._pictures("detector", seed=4)
        return train_detector.train_detector(data, self.folder, self.plans["detector"])

    def pipeline(self, network: UNet2DConditionModel, few_steps: bool) -> StableDiffusionXLPipeline:
        """Copies of the parts as an SDXL pipeline, with the scheduler that suits the number of steps."""
        scheduler = train_unet.make_scheduler()
        if few_steps:
            scheduler = EulerAncestralDiscreteScheduler.from_config(scheduler.config)
        return StableDiffusionXLPipeline(
            vae=deepcopy(self.vae),
            text_encoder=deepcopy(self.text.one),
            text_encoder_2=deepcopy(self.text.two),
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer,
            unet=deepcopy(network),
            scheduler=scheduler,
            add_watermarker=False,
        )

    def export(self, network: UNet2DConditionModel, few_steps: bool, to: Path) -> Path:
        """Write a diffusers folder in float16."""
        with publish_folder(to, replace=True) as new, disk_refusals():
            self.pipeline(network, few_steps).to(torch.float16).save_pretrained(new, safe_serialization=True)
        return Path(to)

    def export_detector(self, to: Path) -> Path:
        """Write the detector's weights in float16."""
        write_tensors(to, {k: v.half() for k, v in self.detector.state_dict().items()})
        return Path(to)


STAGES: dict[str, Callable[[ShapesRecipe], object]] = {
    name: attrgetter(name) for name in ("vae", "text", "base", "pairs", "turbo", "detector")
}


def finish(recipe: ShapesRecipe, captions: int = 512) -> list[Path]:
    """Export both models and the detector, measure the models, write their cards. Gives what was written."""
    written = [recipe.export_detector(recipe.folder / "detector.safetensors")]
    for name, network, few in (("shapes-base", recipe.base, False), ("shapes-turbo", recipe.turbo, True)):
        folder = recipe.export(network, few, recipe.folder / name)
        write_card(folder, recipe.detector, captions)
        written.append(folder)
    return written


def small(folder: Path) -> ShapesRecipe:
    """The same recipe at toy length: a few steps of every stage. For tests; what it makes cannot draw."""
    recipe = ShapesRecipe(Path(folder), Sizes(vae=64, text=64, unet=64, detector=64, pairs=16))
    plans = {name: replace(plan, steps=2, minutes=None) for name, plan in recipe.plans.items()}
    return replace(recipe, plans=plans)
