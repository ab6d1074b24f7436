"""The training set: scenes with their pictures and, for the loss and the text encoders, where objects are."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from unbox.shapes import Scene, caption, coverage, render, sample_scenes


@dataclass(frozen=True)
class Pictures:
    """`n` scenes; pictures (n, 64, 64, 3); covered (n, 2, 32, 32): each cell's share per slot; uint8."""

    scenes: list[Scene]
    pictures: np.ndarray
    covered: np.ndarray

    def __len__(self) -> int:
        return len(self.scenes)

    def images(self, index: np.ndarray) -> Tensor:
        """Pictures as the VAE takes them: (B, 3, 64, 64) in -1..1."""
        return torch.from_numpy(self.pictures[index]).permute(0, 3, 1, 2).float() / 127.5 - 1

    def objects(self, index: np.ndarray) -> Tensor:
        """Share of each latent cell that is object: (B, 1, 32, 32)."""
        return torch.from_numpy(self.covered[index]).float().sum(1, keepdim=True).clamp(max=255) / 255

    def captions(self, index: np.ndarray, rng: np.random.Generator, partial: float) -> list[str]:
        """Fresh captions; a share `partial` of them leaves factors out."""
        return [caption(self.scenes[i], rng, "train", rng.random() >= partial)[0] for i in index]

    @cached_property
    def layout(self) -> np.ndarray:
        """Which slot covers each of 8x8 cells: int8 (n, 8, 8), -1 for background."""
        share = self.covered.reshape(len(self), 2, 8, 4, 8, 4).mean((3, 5)) / 255
        return np.where(share.max(1) > 0.4, share.argmax(1), -1).astype(np.int8)


def make_pictures(n: int, seed: int = 0) -> Pictures:
    """Draw `n` scenes; about 1,700 a second on one core."""
    scenes = sample_scenes(n, seed)
    pictures = np.empty((n, 64, 64, 3), np.uint8)
    covered = np.zeros((n, 2, 32, 32), np.uint8)
    for i, scene in enumerate(tqdm(scenes, desc="drawing scenes", unit="scene", mininterval=5)):
        pictures[i] = render(scene)
        for slot, thing in enumerate(scene.objects):
            covered[i, slot] = 255 * coverage(thing).reshape(32, 2, 32, 2).mean((1, 3))
    return Pictures(scenes, pictures, covered)
