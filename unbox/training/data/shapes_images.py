"""The Shapes world as a training set: scenes drawn as they are needed, with their captions."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unbox.shapes.captions import caption
from unbox.shapes.factors import FACTORS
from unbox.shapes.render_torch import draw
from unbox.shapes.scene import Scene, Split, sample_scene, scene_rng
from unbox.shapes.scene_table import SceneTable
from unbox.training.data.captioned_image import CaptionedImage

#: Factors that a changed scene may differ in.
CHANGED = ("colour", "shape", "texture", "size")


@dataclass(frozen=True)
class ShapesImages:
    """`count` scenes: the i-th is that of `unbox.shapes.prompts` with this seed and split, drawn at `side`
    pixels."""

    count: int
    side: int
    seed: int = 0
    split: Split = "train"
    changed: bool = False
    """Draw each scene with one factor of an object changed, under the caption of the scene as it was."""

    def images(self) -> Iterator[CaptionedImage]:
        """One after the other; none is kept."""
        stamp = int.from_bytes(self._digest("")[:7], "big")
        for i in range(self.count):
            _, text = self._scene(i)
            yield CaptionedImage(f"scene {i}", text, 0, stamp, (i,))

    def picture(self, image: CaptionedImage) -> Image.Image:
        """The scene, drawn."""
        scene = self.scene(image)
        if self.changed:
            scene = self._changed(scene, image.place[0])
        pixels = draw(SceneTable.of([scene]), self.side).pictures[0].permute(1, 2, 0).numpy()
        return Image.fromarray(np.rint(pixels * 255).astype(np.uint8))

    def scene(self, image: CaptionedImage) -> Scene:
        """The scene that an image's caption tells."""
        return self._scene(image.place[0])[0]

    def digest(self, image: CaptionedImage) -> bytes:
        """Of what decides the picture."""
        return self._digest(image.key)

    def sides(self, image: CaptionedImage) -> tuple[int, int]:
        """All are squares of `side`."""
        return self.side, self.side

    def _digest(self, key: str) -> bytes:
        changed = " changed" if self.changed else ""
        told = f"shapes {self.seed} {self.split} {self.side}{changed} {key}"
        return hashlib.sha256(told.encode()).digest()[:16]

    def _changed(self, scene: Scene, i: int) -> Scene:
        """Another colour, shape, texture or size of one object."""
        rng = np.random.default_rng([self.seed % 2**32, i, 1])
        slot = int(rng.integers(len(scene.objects)))
        factor = str(rng.choice(CHANGED))
        others = [value for value in FACTORS[factor] if value != getattr(scene.objects[slot], factor)]
        return scene.with_factor(factor, str(rng.choice(others)), slot)

    def _scene(self, i: int) -> tuple[Scene, str]:
        rng = scene_rng(self.seed, i, self.split)
        scene = sample_scene(rng, self.split)
        text, _ = caption(scene, rng, self.split)
        return scene, text
