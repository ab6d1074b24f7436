"""CLIP similarities by any CLIP of transformers, on any device; each picture and prompt is embedded once."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unbox.errors import UnboxError
from unbox.experiments.critics import Figures, ImagePair
from unbox.experiments.picture_tensors import opened, picture_key

#: Pictures and prompts embedded at once, and embeddings that are remembered (12 MB of CLIP ViT-L/14's).
BATCH, REMEMBERED = 64, 4096

Given = TypeVar("Given")
Encoder = Callable[[Sequence[Given]], Tensor]


class Embeddings(Generic[Given]):
    """Unit vectors of things, each computed once while it is among the last ones asked for."""

    def __init__(self, encode: Encoder[Given], key: Callable[[Given], Hashable]) -> None:
        self._encode, self._key = encode, key
        self._known: OrderedDict[Hashable, Tensor] = OrderedDict()
        self.computed = 0
        """How many were computed so far."""

    def __call__(self, things: Sequence[Given]) -> Tensor:
        """(count, dim) of things, on the CPU."""
        keys = [self._key(thing) for thing in things]
        found = {key: self._known[key] for key in keys if key in self._known}
        fresh = {key: thing for key, thing in zip(keys, things, strict=True) if key not in found}
        for start in range(0, len(fresh), BATCH):
            part = list(fresh)[start : start + BATCH]
            found |= zip(part, self._encode([fresh[key] for key in part]).cpu(), strict=True)
        self.computed += len(fresh)
        for key in keys:
            self._known[key] = found[key]
            self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return torch.stack([found[key] for key in keys])


class ClipMetric:
    """`clip`: cosine similarity of the edited image to its prompt; `clip_image`: to the unedited image;
    `clip_change`: what the edit did to the similarity to the prompt."""

    def __init__(self, images: Encoder[Image.Image], texts: Encoder[str]) -> None:
        self.images, self.texts = Embeddings(images, picture_key), Embeddings(texts, str)

    def images_of(self, files: Sequence[Path]) -> Tensor:
        """(count, dim) of pictures in files, opened a batch at a time."""
        found = []
        for start in range(0, len(files), BATCH):
            found.append(self.images([opened(path) for path in files[start : start + BATCH]]))
        return torch.cat(found) if found else torch.zeros(0, 1)

    def __call__(self, pairs: Sequence[ImagePair]) -> list[Figures]:
        if not pairs:
            return []
        pictures = self.images([p.before for p in pairs] + [p.after for p in pairs])
        before, after = pictures.split(len(pairs))
        text = self.texts([p.prompt for p in pairs])
        to_text, was, to_before = (
            (x * y).sum(-1) for x, y in ((after, text), (before, text), (after, before))
        )
        rows = torch.stack([to_text, to_before, to_text - was], 1).tolist()
        return [dict(zip(("clip", "clip_image", "clip_change"), row, strict=True)) for row in rows]


@cache
def load_clip(name: str, device: str = "cpu") -> ClipMetric:
    """The metric by the CLIP of a Hub id or folder. Raises UnboxError where there is none."""
    return ClipMetric(*clip_encoders(name, device))


def clip_encoders(name: str, device: str = "cpu") -> tuple[Encoder[Image.Image], Encoder[str]]:
    """Functions from images and from texts to unit vectors (count, dim) on a device, by a CLIP of
    transformers."""
    from transformers import AutoProcessor, CLIPModel
    from transformers.utils import ModelOutput

    try:
        model, processor = CLIPModel.from_pretrained(name).eval(), AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UnboxError(f"no CLIP model at '{name}': {str(error).splitlines()[0]}") from error
    model = model.to(device)

    def unit(output: Tensor | ModelOutput) -> Tensor:
        return F.normalize(output if isinstance(output, Tensor) else output["pooler_output"], dim=-1)

    @torch.no_grad()
    def images(pictures: Sequence[Image.Image]) -> Tensor:
        inputs = processor(images=[p.convert("RGB") for p in pictures], return_tensors="pt")
        return unit(model.get_image_features(**inputs.to(device)))

    @torch.no_grad()
    def texts(prompts: Sequence[str]) -> Tensor:
        inputs = processor(text=list(prompts), return_tensors="pt", padding=True, truncation=True)
        return unit(model.get_text_features(**inputs.to(device)))

    return images, texts
