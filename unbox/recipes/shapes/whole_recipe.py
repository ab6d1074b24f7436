"""The whole recipe, stage by stage, each in a folder of its own; each resumes, a finished one is loaded."""

import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import (
    AutoencoderKL,
    EulerAncestralDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from activation_store.files import publish_folder
from unbox.errors import UnboxError
from unbox.models.system_table import SYSTEMS
from unbox.recipes.shapes import model_report
from unbox.recipes.shapes.conditions import CaptionStates
from unbox.recipes.shapes.deciding_noise import DecidingNoise
from unbox.recipes.shapes.finish import train_finish
from unbox.recipes.shapes.growth import (
    BLOCKS,
    Data,
    block,
    bring_in,
    leave_out,
    renew,
    train_growth_stage,
)
from unbox.recipes.shapes.networks import TextEncoders, make_scheduler, make_unet
from unbox.recipes.shapes.orders import ORDERS, GrowthStage, said_by
from unbox.recipes.shapes.recipe_settings import RecipeSizes, StageMinutes
from unbox.recipes.shapes.text_stage import kept_tokenizer, token_ids, train_text
from unbox.recipes.shapes.train_critics import CRITIC_NAMES, train_critic
from unbox.recipes.shapes.vae_stage import train_vae
from unbox.recipes.shapes.world import Latents, all_captions, encode_views, targets
from unbox.sae.safetensors_io import disk_refusals, write_tensors
from unbox.shapes.factor_critics import load_critic
from unbox.shapes.scene_table import SceneTable, sample_table
from unbox.site import DEFAULT_BLOCKS
from unbox.training.loop import TrainingPlan, finished, load_trained


@dataclass
class ShapesRecipe:
    """Makes the Shapes models in `out`."""

    out: Path
    accelerator: Accelerator
    order: str = "words-frozen"
    sizes: RecipeSizes = field(default_factory=RecipeSizes)
    minutes: StageMinutes = field(default_factory=StageMinutes)
    steps: int | None = None
    """Steps of every stage instead of minutes: for trying."""
    start: Path | None = None
    """Finished stages of another run, whose weights `text` and an order that keeps blocks go on from."""
    results: Path | None = None
    """Where finished stages are packed, each when it has finished; None: nowhere."""

    def plan(self, minutes: float, warmup: int = 50, decay_from: float = 0.4) -> TrainingPlan:
        if self.steps is not None:
            return TrainingPlan(self.steps, warmup, decay_from)
        return TrainingPlan(1_000_000, warmup, decay_from, minutes=minutes)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @cached_property
    def table(self) -> SceneTable:
        return sample_table(self.sizes.scenes, seed=3)

    @cached_property
    def captions(self) -> dict[str, Tensor]:
        """`ids` (scenes x copies, 77) int16 and `mentioned` (scenes x copies, heads) bool, on the device;
        kept in a file."""
        return self._captions("captions", self.sizes.copies, None, ())

    def _captions(
        self, name: str, copies: int, first: int | None, only: tuple[str, ...]
    ) -> dict[str, Tensor]:
        file = self.out / f"{name}.safetensors"
        if not file.exists():
            workers = min(os.cpu_count() or 1, 16) if self.sizes.scenes > 5000 else 1
            written = all_captions(3, self.sizes.scenes, copies, workers, first, only)
            tokenizer = kept_tokenizer(self.out / "tokenizer", written.texts[:60_000])
            ids = token_ids(tokenizer, written.texts, torch.device("cpu"))
            write_tensors(file, {"ids": ids, "mentioned": torch.from_numpy(written.mentioned)})
        return {name: tensor.to(self.device) for name, tensor in load_file(file).items()}

    def some_captions(self, only: tuple[str, ...]) -> dict[str, Tensor]:
        """As `captions`, of the first scenes alone, mentioning only some factors."""
        _ = self.tokenizer  # learned on captions that mention everything
        return self._captions("captions-" + "-".join(only), 1, self.sizes.part, only)

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        if not (self.out / "tokenizer").exists():
            _ = self.captions
        return kept_tokenizer(self.out / "tokenizer", [])

    @cached_property
    def vae(self) -> AutoencoderKL:
        folder, loaded = self.out / "vae", finished(self.out / "vae")
        pool = 512 if loaded else self.sizes.vae_pool
        plan = self.plan(self.minutes.vae_minutes)
        return train_vae(folder, plan, self.accelerator, pool, self.sizes.vae_batch, 3e-3)

    @cached_property
    def both(self) -> nn.ModuleDict:
        """The text encoders and their reader."""
        folder = self.out / "text"
        table, captions = self.table, self.captions
        if finished(folder):
            table = sample_table(16, 3)
        plan = self.plan(self.minutes.text_minutes)
        args = (self.accelerator, self.tokenizer, table, captions["ids"], captions["mentioned"])
        start = self._started("text") if self.start is not None else None
        return train_text(folder, plan, *args, self.sizes.text_batch, 2e-3 if start is None else 1e-3, start)

    @property
    def text(self) -> TextEncoders:
        text = self.both["text"]
        assert isinstance(text, TextEncoders)
        return text

    @cached_property
    def latents(self) -> Latents:
        return encode_views(self.vae, self.table, 3, self.device)

    @cached_property
    def conditions(self) -> CaptionStates:
        return CaptionStates.of(self.text, self.captions["ids"])

    @cached_property
    def data(self) -> Data:
        return Data(self.latents, self.conditions, self.sizes.unet_batch)

    def critic(self, name: str) -> nn.Module:
        folder = self.out / name
        pool = 16 if finished(folder) else self.sizes.critic_pool
        plan = self.plan(getattr(self.minutes, f"{name}_minutes"))
        return train_critic(name, folder, plan, self.accelerator, pool, self.sizes.critic_batch, 2e-3)

    @cached_property
    def reads(self) -> model_report.Reads:
        """The second critic if it is there, else the bundled one."""
        trained = finished(self.out / "critic")
        critic = self.critic("critic") if trained else load_critic("patches").to(self.device)
        return lambda x: critic(x * 2 - 1)

    @cached_property
    def readers(self) -> dict[str, model_report.Judged]:
        """The second critic and, marked so, the detector if it is there."""
        if not finished(self.out / "detector"):
            return {"": self.judged}
        detector = self.critic("detector")
        return {"": self.judged, ", detector": replace(self.judged, reads=lambda x: detector(x * 2 - 1))}

    @cached_property
    def judged(self) -> model_report.Judged:
        return model_report.Judged(self.vae, self.text, self.tokenizer, self.reads, self.device)

    @cached_property
    def exams(self) -> dict[str, model_report.Exam]:
        return model_report.exams(self.judged, self.sizes.exam)

    @cached_property
    def base(self) -> UNet2DConditionModel:
        """The many-step model, grown."""
        torch.manual_seed(0)
        unet, order = make_unet().to(self.device), ORDERS[self.order]
        last = last_base(self.out, self.order)
        if finished(last):
            load_trained({"unet": unet}, last)
            return unet.eval()
        if not order.stages:
            raise UnboxError(f"the order '{self.order}' goes on from a finished model, which --start names")
        if order.kept:
            load_trained({"unet": unet}, self._started("base-*"))
            renew(unet, BLOCKS.keys() - set(order.kept))
        leave_out(unet, BLOCKS.keys() - set(order.kept))
        present = list(order.kept)
        for i, stage in enumerate(order.stages):
            self._grow(unet, i, stage, present)
            present += stage.blocks
        return unet.eval()

    def _grow(self, unet: UNet2DConditionModel, i: int, stage: GrowthStage, present: list[str]) -> None:
        """Train one stage, or load it where it has finished; `present` are the blocks of those before it."""
        folder, final = self._base_folder(i), i == len(ORDERS[self.order].stages) - 1
        unet.requires_grad_(not stage.alone)
        leave_out(unet, BLOCKS.keys() - {*present, *stage.blocks})
        bring_in(unet, stage.blocks, zero=bool(present))
        for name in present:
            block(unet, name).requires_grad_(not (stage.frozen or stage.alone))
        if finished(folder):
            load_trained({"unet": unet}, folder)
            return
        plan = self.plan(stage.share * self.minutes.base_minutes, 50, 0.3 if final else 0.8)
        began, said = time.monotonic(), said_by(self.order, i)
        said_ids = self.some_captions(said)["ids"] if said else None
        conditions = self.conditions if said_ids is None else CaptionStates.of(self.text, said_ids)
        data = Data(self.latents, conditions, self.sizes.unet_batch)
        enough = self._enough(unet, stage, said)
        train_growth_stage(unet, folder, plan, stage.rate, self.accelerator, data, not present, enough)
        print(f"base {i}: {' '.join(stage.blocks)}, {time.monotonic() - began:.0f} s", flush=True)
        self.report(unet, f"base-{self.order}-{i}", (1,), brief=True)
        if self.results is not None:
            self.pack(self.results)

    def _started(self, name: str) -> Path:
        """The one finished stage of a name in `start`."""
        found = [path for path in (self.start.glob(name) if self.start else ()) if finished(path)]
        if len(found) != 1:
            raise UnboxError(
                f"the order '{self.order}' goes on from one finished {name}, and "
                f"{f'{self.start} holds {len(found)}' if self.start else '--start names no folder'}"
            )
        return found[0]

    def _base_folder(self, i: int) -> Path:
        return self.out / f"base-{self.order}-{i}"

    def _enough(
        self, unet: UNet2DConditionModel, stage: GrowthStage, said: tuple[str, ...]
    ) -> Callable[[int], bool] | None:
        if stage.until is None:
            return None
        until = stage.until
        exam = model_report.said_exam(self.judged, self.sizes.exam, said) if said else self.exams["full"]
        wanted = stage.words or ("all",)

        def enough(step: int) -> bool:
            if step % 25 or step < 50:
                return False
            found = model_report.quick(self.judged, unet, exam)
            told = " ".join(f"{name} {found[name]:.2f}" for name in wanted)
            print(f"step {step}: right at one step: {told}", flush=True)
            return min(found[name] for name in wanted) >= until

        return enough

    @cached_property
    def finish(self) -> UNet2DConditionModel:
        """The few-step model."""
        unet, folder = make_unet().to(self.device), self.out / f"finish-{self.order}"
        plan = self.plan(self.minutes.finish_minutes, warmup=100, decay_from=0.3)
        unet.load_state_dict(self.base.state_dict())
        unet.requires_grad_(True)
        for name in BLOCKS.keys() - set(DEFAULT_BLOCKS):  # or work moves out to them
            block(unet, name).requires_grad_(False)
        if finished(folder):
            load_trained({"unet": unet}, folder)
            return unet.eval()
        cover, mentioned = self.latents.objects / 255, self.captions["mentioned"]
        deciding = DecidingNoise.of(self.latents.x0, cover, targets(self.table), mentioned)
        train_finish(unet, folder, plan, self.accelerator, self.data, deciding)
        return unet.eval()

    def report(
        self, unet: UNet2DConditionModel, name: str, steps: tuple[int, ...], brief: bool = False
    ) -> dict[str, dict[str, Any]]:
        """Measure, print, and write `report-NAME.json` and a sheet of pictures; gives what was measured."""
        unet.eval()
        found: dict[str, dict[str, Any]] = {}
        for count in steps:
            for kind, exam in self.exams.items():
                pictures = model_report.pictures_of(
                    self.judged, unet, exam.conditions.plain(), count, ancestral=count < 10
                )
                for reader, judged in self.readers.items():
                    share = model_report.accuracy(model_report.readings(judged, pictures), exam.heads)
                    found[f"{kind}, {count} steps{reader}"] = share
                found[f"{kind}, {count} steps"] |= {"sharpness": model_report.sharpness(pictures)}
                if kind == "people":
                    self._sheet(pictures[:48], f"{name}-{count}")
                if brief:
                    break
        found["ablations"] = model_report.ablations(self.judged, unet, self.exams["full"])
        if not brief:
            pairs = min(20, max(1, self.sizes.exam // 10))
            for count in steps:
                found[f"open, {count} steps"] = model_report.openness(self.judged, unet, count, pairs)
            found["sizes and crops"] = model_report.micro(self.judged, unet, self.exams["full"], steps[-1])
        (self.out / f"report-{name}.json").write_text(json.dumps(found, indent=1))
        print(f"== {name}")
        for key, value in found.items():
            if key == "ablations":
                for row, cells in value.items():
                    told = {k: v for k, v in cells.items() if k == "change" or v >= 0.02}
                    print(f"  {row:9}" + " ".join(f"{k} {v:.3f}" for k, v in told.items()))
            else:
                flat = {k: v["differ"] if isinstance(v, dict) else v for k, v in value.items()}
                print(f"  {key}: " + " ".join(f"{k} {v:.3f}" for k, v in flat.items()))
        print(flush=True)
        unet.train()
        return found

    def _sheet(self, pictures: Tensor, name: str) -> None:
        rows = [torch.cat(list(row), -1) for row in pictures.split(12) if len(row) == 12]
        sheet = (torch.cat(rows, -2) * 255).round().byte().permute(1, 2, 0).cpu().numpy() if rows else None
        if sheet is not None:
            Image.fromarray(sheet).save(self.out / f"sheet-{name}.png")

    def export(self, network: UNet2DConditionModel, system: str) -> Path:
        """Write a diffusers folder in float16, with the scheduler of few steps, that is sampled as a row of
        the table of systems is and called by its name."""
        pipeline = StableDiffusionXLPipeline(
            vae=deepcopy(self.vae),
            text_encoder=deepcopy(self.text.one),
            text_encoder_2=deepcopy(self.text.two),
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer,
            unet=deepcopy(network),
            scheduler=EulerAncestralDiscreteScheduler.from_config(make_scheduler().config),
            add_watermarker=False,
        )
        with publish_folder(to := self.out / system, replace=True) as new, disk_refusals():
            pipeline.to(torch.float16).save_pretrained(new, safe_serialization=True)
            replace(SYSTEMS[system], base=None, verified="trained by `unbox recipe shapes`").save(new)
        return to

    def export_critic(self, stage: str) -> Path:
        """Write a critic's weights in float16, as `unbox.shapes.factor_critics.load_critic` reads them."""
        to = self.out / f"{CRITIC_NAMES[stage]}.safetensors"
        write_tensors(to, {k: v.half() for k, v in self.critic(stage).state_dict().items()})
        return to

    def pack(self, to: Path) -> None:
        """Finished stages as tar files under 16 MiB, weights in float16: networks of one file each, the
        rest in
        `parts.tar`."""
        to.mkdir(parents=True, exist_ok=True)
        small = self.out / f"parts-{os.getpid()}.tar"  # several orders may be packed at once
        with TemporaryDirectory() as temporary, tarfile.open(small, "w") as parts:
            for path in sorted(self.out.iterdir()):
                if path.name == "tokenizer" or path.suffix in (".json", ".png"):
                    parts.add(path, path.name)
                elif finished(path) and (path == self._last(path) or not finished(self._last(path))):
                    new = Path(temporary) / path.name
                    new.mkdir()
                    for file in path.glob("*.safetensors"):
                        save_file({k: v.half() for k, v in load_file(file).items()}, new / file.name)
                    (new / "state.json").write_text((path / "state.json").read_text())
                    if path.name.startswith(("base", "finish")):
                        with tarfile.open(to / f"{path.name}.tar", "w") as tar:
                            tar.add(new, path.name)
                    else:
                        parts.add(new, path.name)
                else:  # what an earlier stage packed, and a finished last one makes needless
                    (to / f"{path.name}.tar").unlink(missing_ok=True)
        shutil.copy(small, to / f"new-{small.name}")
        os.replace(to / f"new-{small.name}", to / "parts.tar")
        small.unlink()

    def _last(self, path: Path) -> Path:
        """Of a stage of growth the last of its order, which makes it needless; of others themselves."""
        if not path.name.startswith("base-"):
            return path
        return last_base(self.out, path.name[len("base-") :].rsplit("-", 1)[0])


def last_base(out: Path, order: str) -> Path:
    """The folder of the last stage of growth in an order; of one in which nothing grows, of its start."""
    stages = len(ORDERS[order].stages)
    return out / (f"base-{order}-{stages - 1}" if stages else f"base-{order}")


def unpack(folder: Path, out: Path) -> None:
    """Take up what `pack` wrote."""
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(folder.glob("*.tar")):
        with tarfile.open(file) as tar:
            tar.extractall(out, filter="data")
