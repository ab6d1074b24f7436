"""Reads the factors of a picture: a small convolutional network trained on real renders."""

from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Self, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from unbox.shapes.factors import FACTORS, OBJECT_FACTORS, SCENE_FACTORS
from unbox.shapes.scene import Scene

WEIGHTS = Path(__file__).parent / "weights" / "detector.safetensors"

#: The network's heads: scene factors by name, object factors as `slot.factor`.
HEADS: dict[str, tuple[str, ...]] = {name: FACTORS[name] for name in SCENE_FACTORS} | {
    f"{slot}.{name}": FACTORS[name] for slot in (0, 1) for name in OBJECT_FACTORS
}

Picture = Image.Image | np.ndarray


class Reading(TypedDict):
    """The most likely factors of a picture."""

    objects: int
    relation: str
    background: str
    light: str
    slots: list[dict[str, str]]
    """Of each object, its factors."""


class Residual(nn.Module):
    """Two convolutions beside the identity, normalised first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.silu(self.one(F.silu(self.norm(x)))))


class FactorReader(nn.Module):
    """What tells the factors of pictures. A subclass is the network: `forward` gives the logits of every head
    for pictures (B, 3, side, side) in -1..1. Slot 0 is the left or upper object, slot 1 the other."""

    side: int
    """Of the pictures that it reads, in pixels; others are resampled."""

    @property
    def device(self) -> torch.device:
        """Where it reads."""
        return next(self.parameters()).device

    def on(self, device: torch.device) -> Self:
        """Itself, or a copy on another device."""
        return self if device == self.device else deepcopy(self).to(device)

    @torch.no_grad()
    def probabilities(self, images: Sequence[Picture], batch: int = 256) -> dict[str, np.ndarray]:
        """Per head (`relation`, `background`, `light`, `0.shape`, ... `1.position`) (images, values).

        Slot 1 means something only where the relation is not `alone`.
        """
        parts, device = [], self.device
        for i in range(0, len(images), batch):
            x = torch.stack([_tensor(image, self.side) for image in images[i : i + batch]]).to(device)
            parts.append({name: logits.softmax(-1).cpu().numpy() for name, logits in self(x).items()})
        empty = {name: np.zeros((0, len(values)), np.float32) for name, values in HEADS.items()}
        return {name: np.concatenate([p[name] for p in parts]) for name in HEADS} if parts else empty

    def read(self, images: Sequence[Picture]) -> list[Reading]:
        """The most likely factors of each picture: `objects`, `relation`, `background`, `light`, `slots`."""
        best = {name: p.argmax(-1) for name, p in self.probabilities(images).items()}
        result = []
        for i in range(len(images)):
            read = {name: values[best[name][i]] for name, values in HEADS.items()}
            count = 1 if read["relation"] == "alone" else 2
            slots = [{name: read[f"{slot}.{name}"] for name in OBJECT_FACTORS} for slot in range(count)]
            found = Reading(
                objects=count, relation=read["relation"], background=read["background"], light=read["light"],
                slots=slots,
            )  # fmt: skip
            result.append(found)
        return result


class Heads(nn.Module):
    """Logits of every head from features (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(values) for values in HEADS.values()]
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return dict(zip(HEADS, self.linear(features).float().split(self.sizes, -1), strict=True))


class Detector(FactorReader):
    """Factors of pictures (B, 3, 128, 128) in -1..1, by convolutions."""

    side = 128

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 64, 96)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), Residual(after)]
        self.trunk = nn.Sequential(
            *layers,
            nn.GroupNorm(8, 96),
            nn.SiLU(),
            nn.Conv2d(96, 32, 1),
            nn.Flatten(),
            nn.Linear(32 * 64, 256),
            nn.SiLU(),
        )
        self.heads = Heads(256)

    @classmethod
    @cache
    def load(cls, path: Path = WEIGHTS) -> "Detector":
        """The bundled detector, or weights from `path` (safetensors); each is loaded once."""
        detector = cls()
        detector.load_state_dict({k: v.float() for k, v in load_file(path).items()})
        return detector.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.heads(self.trunk(x))


def truth(scene: Scene) -> dict[str, str]:
    """A scene's factors under the detector's head names; slot 1 only where there is a second object."""
    factors = {name: getattr(scene, name) for name in SCENE_FACTORS}
    for slot, thing in enumerate(scene.objects):
        factors |= {f"{slot}.{name}": getattr(thing, name) for name in OBJECT_FACTORS}
    return factors


def accuracy(
    detector: FactorReader,
    images: Sequence[Picture],
    scenes: Sequence[Scene],
    mentioned: Sequence[Sequence[str]] | None = None,
) -> dict[str, float]:
    """Share of factors read right, per factor and over `all`; of those `mentioned` by the captions if given.

    A pair drawn as one object counts all that is asked of its second object as wrong.
    """
    right: dict[str, list[bool]] = {name: [] for name in FACTORS}
    for i, read in enumerate(detector.read(images)):
        found = {"relation": read["relation"], "background": read["background"], "light": read["light"]}
        for slot, thing in enumerate(read["slots"]):
            found |= {f"{slot}.{name}": value for name, value in thing.items()}
        for name, value in truth(scenes[i]).items():
            if mentioned is None or name in mentioned[i]:
                right[name.split(".")[-1]].append(found.get(name) == value)
    everything = [ok for oks in right.values() for ok in oks]
    means = {name: float(np.mean(oks)) for name, oks in right.items() if oks}
    return means | ({"all": float(np.mean(everything))} if everything else {})


def _tensor(image: Picture, side: int) -> Tensor:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.BOX)
    return rearrange(torch.from_numpy(np.array(picture.convert("RGB"))), "y x c -> c y x").float() / 127.5 - 1
