"""A step of every recipe at SDXL's real size: a section of `gpu.py`.

One base of random weights in bfloat16 lies on the card; each line's networks are adapters over it, as its
recipe makes them, and are taken off again. CLIP and DINOv2 have random weights of PickScore's and
DINOv2-large's sizes.
"""

import gc
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from gpu_setting import Setting

#: Settings of every line: what a training at this size needs, all else as the recipes have it.
COMMON: Mapping[str, Any] = {"gradient_checkpointing": True, "batch_size": 1}
#: Steps that are timed after one that makes the optimizers' states.
TIMED = 3
#: The bound that a card of 24 GB leaves.
BOUND_GB = 18.0


@dataclass(frozen=True)
class Line:
    """A recipe with the settings that the line gives."""

    recipe: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """As it is typed."""
        words = [self.recipe]
        for name, value in self.settings.items():
            if name in ("losers", "gradient_accumulation_steps"):
                continue  # the folder, and how many such batches make a step
            words.append(f"--{'no-' * (value is False)}{name.replace('_', '-')}")
            if not isinstance(value, bool):
                words += [str(each) for each in value] if isinstance(value, tuple) else [str(value)]
        return " ".join(words)


PAIRS: Mapping[str, Any] = {"losers": "LOSERS", "gradient_accumulation_steps": 1}
LINES = (
    Line("sdxl"),
    Line("turbo", {"projector": "DINOV2"}),
    Line("lightning", {"arm": "mse"}),
    Line("lightning"),
    Line("lightning", {"arm": "ladd", "teacher_steps": 8, "student_steps": (4,)}),
    Line("lightning", {"arm": "dmd2", "student_steps": (4,)}),
    Line("novelai", {"full": False}),
    Line("ncp", PAIRS),
    Line("ncp", {"objective": "cpo", **PAIRS}),
    Line("ncp", {"objective": "sft", "gradient_accumulation_steps": 1}),
    Line("ncp", {"space": "output", **PAIRS}),
    Line("distar"),
    Line("distar", {"reward": "CLIP"}),
    Line("distar", {"distance": "kl", "reward": "CLIP"}),
    Line("novelai", {"full": True}),  # the last: it trains the base itself
)


def recipes(setting: Setting) -> Iterator[str]:
    """One step of every recipe at 512 px, batch 1, gradient checkpointing, a LoRA of its default rank: every
    role's turn once, on a batch of noise. Memory is all that lay on the card, base, adapters, optimizers and
    VAE with it, without text encoders, which a training puts away when its images are encoded."""
    with tempfile.TemporaryDirectory() as place:
        bench = RealSize(setting, Path(place))
        yield f"The base on the card: {bench.held() / 1e9:.2f} GB."
        yield ""
        yield f"| recipe | trained, M | s a step | most, GB | within {BOUND_GB:g} GB |"
        yield "| --- | --- | --- | --- | --- |"
        stopped = []
        for line in LINES:
            try:
                seconds, peak, trained = bench.measured(line)
            except (RuntimeError, TypeError, ValueError) as error:  # the other lines are worth their figures
                stopped.append(line.title)
                yield f"| `{line.title}` | {' '.join(str(error).split())[:300]} | | | |"
                continue
            fits = "yes" if peak < BOUND_GB * 1e9 else "no"
            yield (
                f"| `{line.title}` | {trained / 1e6:.1f} | {statistics.median(seconds):.3f} "
                f"[{min(seconds):.3f}, {max(seconds):.3f}] | {peak / 1e9:.2f} | {fits} |"
            )
        if stopped:
            raise RuntimeError(f"stopped by an error: {'; '.join(stopped)}")


class RealSize:
    """The base, an image with its caption, and where random networks that look at pictures lie."""

    def __init__(self, setting: Setting, place: Path) -> None:
        from unbox.models import load
        from unbox.models.real_size import random_model
        from unbox.recipes.sdxl.sdxl_settings import TrainingImages

        self.setting, self.place = setting, place
        if setting.tiny:
            self.model = load("shapes-base", device=setting.device)
            self.images = TrainingImages(data="shapes", limit=2)
        else:
            self.model = random_model("base", dtype=torch.bfloat16, device=setting.device)
            self.images = TrainingImages(data=str(picture(place / "data")), resolution=512, square=True)
        pipeline = self.model.pipeline
        pipeline.text_encoder.to("cpu")
        pipeline.text_encoder_2.to("cpu")
        pipeline.vae.requires_grad_(False)
        self.looking: dict[str, str] = {}

    def held(self) -> int:
        """Bytes on the card now."""
        return torch.cuda.memory_allocated(self.setting.device) if self.setting.cuda else 0

    def looks(self, kind: str) -> str:
        """The folder of a network that looks at pictures, written once."""
        if kind not in self.looking:
            write = random_clip if kind == "CLIP" else random_dino
            with torch.random.fork_rng([]):
                self.looking[kind] = str(
                    write(self.place / kind, self.model.pipeline.tokenizer, self.setting.tiny)
                )
        return self.looking[kind]

    def measured(self, line: Line) -> tuple[list[float], int, int]:
        """Seconds of some steps, the most bytes that the card held in one, and how many weights learn."""
        with self.stepping(line) as (step, trained):
            step()  # makes the optimizers' states
            if self.setting.cuda:
                torch.cuda.reset_peak_memory_stats(self.setting.device)
            seconds = self.setting.seconds(step, 1 if self.setting.tiny else TIMED, 0)
            peak = torch.cuda.max_memory_allocated(self.setting.device) if self.setting.cuda else 0
        return seconds, peak, trained

    @contextmanager
    def stepping(self, line: Line) -> Iterator[tuple[Any, int]]:
        """A step of a line and how many weights it trains; its adapters are gone afterwards."""
        given = {**COMMON, **line.settings, **({"mixed_precision": "no"} if self.setting.tiny else {})}
        if line.recipe == "turbo":
            given["projector"] = self.looks("DINOV2")
        if "reward" in given:
            given["reward"] = self.looks("CLIP")
        roles, step = (self._sdxl if line.recipe == "sdxl" else self._method)(line.recipe, given)
        try:
            yield step, sum(p.numel() for role in roles for p in role.trained().values())
        finally:
            del roles, step
            unet = self.model.pipeline.unet
            if hasattr(unet, "peft_config"):
                unet.unload_lora()
            unet.disable_gradient_checkpointing()
            gc.collect()
            if self.setting.cuda:
                torch.cuda.empty_cache()

    def _shapes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        from unbox.recipes.sdxl.train_sdxl import side_of
        from unbox.training.data.latent_encoders import LatentEncoders

        pipeline = self.model.pipeline
        side = side_of(self.model, self.images) // pipeline.vae_scale_factor
        return (pipeline.unet.config.in_channels, side, side), LatentEncoders(self.model).text_shape()

    def _sdxl(self, _name: str, given: dict[str, Any]) -> tuple[list[Any], Any]:
        from unbox.recipes.sdxl.sdxl_cost import training_step
        from unbox.recipes.sdxl.sdxl_settings import SdxlSettings
        from unbox.recipes.sdxl.train_sdxl import make_role

        settings, device = SdxlSettings(**given), self.setting.device
        role = make_role(self.model.unet, settings)
        role.module.to(device)
        role.start()
        return [role], training_step(self.model, role, settings, *self._shapes(), device)

    def _method(self, name: str, given: dict[str, Any]) -> tuple[list[Any], Any]:
        from unbox.recipes.sdxl.train_sdxl import check_images
        from unbox.recipes.systems.method_cost import MethodTrial, whole_step
        from unbox.recipes.systems.methods import METHODS

        method = METHODS[name]
        settings, pipeline, device = method.settings(**given), self.model.pipeline, self.setting.device
        latent, text = self._shapes()
        trial = MethodTrial(
            method, self.model, self.images, settings, latent, text, "losers" in given,
            check_images(self.images),
        )  # fmt: skip
        stage, bench = trial.stage(pipeline.unet, pipeline.vae, device)
        if self.setting.cuda:  # a stage without networks that look at pictures decodes none
            pipeline.vae.to(device if bench.parts else "cpu")
        for role in stage.roles.values():
            role.module.to(device)
        return list(stage.roles.values()), whole_step(stage, device)


def picture(folder: Path) -> Path:
    """A folder with one image and its caption."""
    from PIL import Image

    folder.mkdir()
    Image.new("RGB", (512, 512), "gray").save(folder / "0.png")
    (folder / "0.txt").write_text("a gray square")
    return folder


def random_clip(folder: Path, tokenizer: Any, small: bool) -> Path:
    """A CLIP of ViT-H's size (PickScore's) with random weights in float32, as `--reward FOLDER` loads it."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    text = sizes(1024, 24, small) | {"intermediate_size": 128 if small else 4096}
    vision = sizes(1280, 32, small) | {"intermediate_size": 128 if small else 5120, "patch_size": 14}
    plan = CLIPConfig(text_config=text, vision_config=vision, projection_dim=1024)
    drawn(CLIPModel, plan).save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(folder)
    return folder


def random_dino(folder: Path, _tokenizer: Any, small: bool) -> Path:
    """A DINOv2-large with random weights, as `--projector FOLDER` loads it."""
    from transformers import Dinov2Config, Dinov2Model

    plan = Dinov2Config(**sizes(1024, 24, small), patch_size=14, image_size=56 if small else 518)
    drawn(Dinov2Model, plan).save_pretrained(folder)
    return folder


def sizes(width: int, layers: int, small: bool) -> dict[str, int]:
    """Of a transformer with 16 heads, or of a small one."""
    if small:
        width, layers = 64, 4
    return {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 16}


def drawn(kind: Any, plan: Any) -> Any:
    """A network of random weights, drawn on the card where there is one, on the CPU."""
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        network = kind(plan)
    return network.cpu()
