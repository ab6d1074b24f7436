"""Frozen networks that look at pictures: whose features ADD's critic judges, and rewards. Gradients flow."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unbox.errors import UnboxError
from unbox.recipes.sdxl.sdxl_settings import TrainingImages
from unbox.recipes.sdxl.train_sdxl import check_images
from unbox.recipes.systems.method_settings import Settings
from unbox.recipes.systems.workbench import Workbench
from unbox.shapes.detector import HEADS, Residual, truth
from unbox.shapes.factor_critics import load_critic
from unbox.training.data.image_index import IndexRow
from unbox.training.data.shapes_images import ShapesImages

#: The reader of Shapes that methods learn from; what judges them is another.
READER = "detector"
#: Feature maps of a transformer that are judged.
TAKEN = 4
#: How DINOv2 wants its pictures.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: Pictures (B, 3, h, w) in -1..1 and their rows -> (B,).
Reward = Callable[[Tensor, Sequence[IndexRow]], Tensor]


def resized(pictures: Tensor, side: int) -> Tensor:
    """Squares of another side."""
    if pictures.shape[-2:] == (side, side):
        return pictures
    return F.interpolate(pictures, (side, side), mode="bilinear", antialias=True, align_corners=False)


class DetectorMaps(nn.Module):
    """The maps of Shapes' reader after each of its residual layers."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = load_critic(READER)
        self.trunk: nn.Sequential = self.reader.trunk  # type: ignore[assignment]  # the convolutional one
        self.channels = [part.two.out_channels for part in self.trunk if isinstance(part, Residual)]

    def forward(self, pictures: Tensor) -> list[Tensor]:
        hidden, maps = resized(pictures, self.reader.side), []
        for part in self.trunk:
            hidden = part(hidden)
            if isinstance(part, Residual):
                maps.append(hidden)
            if len(maps) == len(self.channels):
                break
        return maps


class DinoMaps(nn.Module):
    """Four hidden states of a DINOv2 as maps."""

    def __init__(self, name: str) -> None:
        """Raises UnboxError where there is none."""
        super().__init__()
        from transformers import Dinov2Model

        try:
            self.network = Dinov2Model.from_pretrained(name).eval().requires_grad_(False)
        except (OSError, ValueError) as error:
            raise UnboxError(f"--projector {name}: no DINOv2: {str(error).splitlines()[0]}") from error
        config = self.network.config
        self.taken = (
            torch.linspace(config.num_hidden_layers / TAKEN, config.num_hidden_layers, TAKEN).long().tolist()
        )
        self.channels = [config.hidden_size] * TAKEN

    def forward(self, pictures: Tensor) -> list[Tensor]:
        side = self.network.config.image_size
        mean, deviation = (torch.tensor(v, device=pictures.device).view(3, 1, 1) for v in (MEAN, DEVIATION))
        pixels = (resized(pictures, side) / 2 + 0.5 - mean) / deviation
        states = self.network(pixels, output_hidden_states=True).hidden_states
        places = side // self.network.config.patch_size
        return [states[at][:, 1:].mT.unflatten(-1, (places, places)) for at in self.taken]


@cache
def load_projector(name: str) -> DetectorMaps | DinoMaps:
    """Frozen features of pictures; each is loaded once. Raises UnboxError where there is no such network."""
    return DetectorMaps() if name == "detector" else DinoMaps(name)


def projector(bench: Workbench[Settings], name: str) -> DetectorMaps | DinoMaps:
    """The same on the workbench's device."""
    with torch.random.fork_rng([]):  # loading draws weights that are then replaced, the first time
        made = load_projector(name)
    bench.parts["projector"] = made.to(bench.device)
    return made


class DetectorReward(nn.Module):
    """Mean log likelihood of a scene's factors, as Shapes' reader sees them."""

    def __init__(self, source: ShapesImages) -> None:
        super().__init__()
        self.reader, self.source = load_critic(READER), source

    def forward(self, pictures: Tensor, rows: Sequence[IndexRow]) -> Tensor:
        found = self.reader(resized(pictures, self.reader.side))
        likely = {name: logits.log_softmax(-1) for name, logits in found.items()}
        scores = []
        for place, row in enumerate(rows):
            facts = truth(self.source.scene(row.image))
            scores.append(
                torch.stack([likely[n][place, HEADS[n].index(value)] for n, value in facts.items()]).mean()
            )
        return torch.stack(scores)


class ClipReward(nn.Module):
    """Cosine similarity of picture and caption by a CLIP of transformers (PickScore is one)."""

    def __init__(self, name: str) -> None:
        """Raises UnboxError where there is none."""
        super().__init__()
        from transformers import AutoProcessor, CLIPModel

        try:
            self.network = CLIPModel.from_pretrained(name).eval().requires_grad_(False)
            self.processor = AutoProcessor.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise UnboxError(f"--reward {name}: no CLIP: {str(error).splitlines()[0]}") from error

    def forward(self, pictures: Tensor, rows: Sequence[IndexRow]) -> Tensor:
        looks = self.processor.image_processor
        mean, deviation = (
            torch.tensor(v, device=pictures.device).view(3, 1, 1) for v in (looks.image_mean, looks.image_std)
        )
        pixels = (
            resized(pictures, self.network.config.vision_config.image_size) / 2 + 0.5 - mean
        ) / deviation
        words = self.processor.tokenizer(
            [row.caption for row in rows], return_tensors="pt", padding=True, truncation=True
        ).to(pictures.device)
        seen = self.network(pixel_values=pixels, **words)
        return F.cosine_similarity(seen.image_embeds, seen.text_embeds)


@cache
def load_clip_reward(name: str) -> ClipReward:
    """A CLIP as a reward; each is loaded once. Raises UnboxError where there is none."""
    return ClipReward(name)


def reward_of(bench: Workbench[Settings], name: str) -> Reward:
    """A reward on the workbench's device."""
    with torch.random.fork_rng([]):
        made = DetectorReward(shapes_of(bench.images)) if name == "detector" else load_clip_reward(name)
    bench.parts["reward"] = made.to(bench.device)
    return made


def shapes_of(images: TrainingImages) -> ShapesImages:
    """The scenes of --data shapes. Raises UnboxError for other images."""
    source = check_images(images)
    if not isinstance(source, ShapesImages):
        raise UnboxError("--reward detector reads the scenes of --data shapes; name a CLIP for other images")
    return source


def check_picture_network(option: str, name: str | None, images: TrainingImages) -> None:
    """Raise UnboxError, before a model is loaded, for a network that is not there."""
    if name == "detector" and option == "reward":
        shapes_of(images)
    if name not in (None, "detector") and name.count("/") != 1 and not Path(name).is_dir():
        raise UnboxError(
            f"--{option} = {name}: is detector, a folder, or a Hub id; there is no folder {name}"
        )
