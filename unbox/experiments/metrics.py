"""Distances between an image and its edited version, and scores of either.

A metric is built once for an experiment and takes pairs; it answers numbers by name. Inside and outside are
weighted by the pair's mask; without one, only the whole image is measured.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unbox.errors import UnboxError
from unbox.shapes import FACTORS, OBJECT_FACTORS

Figures = dict[str, float]


@dataclass(frozen=True)
class Pair:
    """An unedited and an edited image (PIL, same size), the prompt, and what the edit was meant for."""

    before: Any
    after: Any
    prompt: str
    mask: np.ndarray | None = None
    """(height, width) weights at the image's size."""
    target: tuple[str, str] | None = None
    """Factor and value of the Shapes world that the edit should bring about."""


Metric = Callable[[Sequence[Pair]], list[Figures]]


def pixels(pairs: Sequence[Pair]) -> list[Figures]:
    """`rmse`: root mean square difference of RGB in 0..1."""
    return [
        {
            name: value**0.5
            for name, value in _parts("rmse", ((_rgb(p.after) - _rgb(p.before)) ** 2).mean(-1), p).items()
        }
        for p in pairs
    ]


def structure(pairs: Sequence[Pair]) -> list[Figures]:
    """`dssim`: (1 - SSIM) / 2 of luminance at three scales, averaged: the offline stand-in for LPIPS."""
    return [_parts("dssim", _dssim(_rgb(p.before), _rgb(p.after)), p) for p in pairs]


def colour(pairs: Sequence[Pair]) -> list[Figures]:
    """`delta_e`: distance in CIE Lab (1976). `lightness`, `chroma`: mean change of L* and of C*."""
    rows = []
    for pair in pairs:
        before, after = _lab(_rgb(pair.before)), _lab(_rgb(pair.after))
        change = after - before
        chroma = np.linalg.norm(after[..., 1:], axis=-1) - np.linalg.norm(before[..., 1:], axis=-1)
        rows.append(
            _parts("delta_e", np.linalg.norm(change, axis=-1), pair)
            | {"lightness": float(change[..., 0].mean()), "chroma": float(chroma.mean())}
        )
    return rows


def factors(pairs: Sequence[Pair]) -> list[Figures]:
    """What the Shapes detector reads: `changed`, the share of factors (other than the target) whose reading
    changed; with a target `success`, whether its value is read afterwards, and `had`, whether before."""
    from unbox.ground_truth.effects import readings
    from unbox.shapes.detector import Detector

    detector = Detector.load()
    before = readings(detector, [p.before for p in pairs])
    after = readings(detector, [p.after for p in pairs])
    rows = []
    for pair, b, a in zip(pairs, before, after, strict=True):
        others = [name for name in FACTORS if pair.target is None or name != pair.target[0]]
        row = {"changed": float(np.mean([b[n] != a[n] for n in others]))}
        if pair.target is None:
            row |= {f"changed_{n}": float(b[n] != a[n]) for n in (*OBJECT_FACTORS, "background", "light")}
        else:
            factor, value = pair.target
            row |= {"success": float(a[factor] == value), "had": float(b[factor] == value)}
        rows.append(row)
    return rows


def lpips(pairs: Sequence[Pair], net: str = "alex") -> list[Figures]:
    """`lpips`: Zhang et al. 2018, by the `lpips` package, whose backbone's weights must be present."""
    with torch.no_grad():
        return [{"lpips": float(_lpips(net)(_signed(p.before), _signed(p.after)))} for p in pairs]


def clip(pairs: Sequence[Pair], name: str) -> list[Figures]:
    """`clip`: cosine similarity of the edited image to its prompt; `clip_image`: to the unedited image;
    `clip_change`: what the edit did to the similarity to the prompt."""
    embed_image, embed_text = clip_encoders(name)
    before = embed_image([p.before for p in pairs])
    after = embed_image([p.after for p in pairs])
    text = embed_text([p.prompt for p in pairs])
    to_text, was = (after * text).sum(-1), (before * text).sum(-1)
    kept = (after * before).sum(-1)
    return [
        {"clip": float(t), "clip_image": float(k), "clip_change": float(t - w)}
        for t, k, w in zip(to_text, kept, was, strict=True)
    ]


#: Metrics by the name that an experiment's file uses.
METRICS: Mapping[str, Callable[..., list[Figures]]] = {
    "pixels": pixels,
    "structure": structure,
    "colour": colour,
    "factors": factors,
    "lpips": lpips,
    "clip": clip,
}


def make_metric(name: str, clip_model: str | None = None) -> Metric:
    """The metric of a name. Raises UnboxError, saying what to do, where it is unknown or lacks weights."""
    if name not in METRICS:
        raise UnboxError(f"no metric '{name}'; there are {', '.join(METRICS)}")
    if name == "lpips":
        _lpips("alex")
    if name == "clip":
        if clip_model is None:
            raise UnboxError("the metric 'clip' needs `clip = ...`: a Hub id or a folder with a CLIP model")
        clip_encoders(clip_model)
        return lambda pairs: clip(pairs, clip_model)
    return METRICS[name]


@cache
def _lpips(net: str) -> Any:
    try:
        import lpips as package

        return package.LPIPS(net=net, verbose=False).eval()
    except (ImportError, OSError) as error:
        raise UnboxError(
            f"LPIPS cannot run here ({error}): it needs `pip install lpips` and the weights of {net}; "
            "'structure' (multi-scale DSSIM) needs neither"
        ) from error


@cache
def clip_encoders(name: str) -> tuple[Callable[[Sequence[Any]], Tensor], Callable[[Sequence[str]], Tensor]]:
    """Functions from images and from texts to unit vectors (count, dim), by a CLIP of transformers."""
    from transformers import AutoProcessor, CLIPModel

    try:
        model, processor = CLIPModel.from_pretrained(name).eval(), AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UnboxError(f"no CLIP model at '{name}': {str(error).splitlines()[0]}") from error

    @torch.no_grad()
    def images(pictures: Sequence[Any]) -> Tensor:
        inputs = processor(images=[p.convert("RGB") for p in pictures], return_tensors="pt")
        return F.normalize(_pooled(model.get_image_features(**inputs)), dim=-1)

    @torch.no_grad()
    def texts(prompts: Sequence[str]) -> Tensor:
        inputs = processor(text=list(prompts), return_tensors="pt", padding=True, truncation=True)
        return F.normalize(_pooled(model.get_text_features(**inputs)), dim=-1)

    return images, texts


def _pooled(output: Any) -> Tensor:
    """Features as a tensor, whichever way the installed transformers answers."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _parts(name: str, distance: np.ndarray, pair: Pair) -> Figures:
    """Mean of a (height, width) distance over the image, and inside and outside the mask."""
    figures = {name: float(distance.mean())}
    if pair.mask is not None:
        for part, weights in (("inside", pair.mask), ("outside", 1 - pair.mask)):
            figures[f"{name}_{part}"] = float((distance * weights).sum() / max(weights.sum(), 1e-9))
    return figures


def _rgb(image: Any) -> np.ndarray:
    return np.asarray(image.convert("RGB"), np.float32) / 255


def _signed(image: Any) -> Tensor:
    return torch.from_numpy(_rgb(image)).permute(2, 0, 1)[None] * 2 - 1


def _lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of sRGB in 0..1."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = linear @ to_xyz.T / to_xyz.sum(1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def _dssim(before: np.ndarray, after: np.ndarray, scales: int = 3) -> np.ndarray:
    """(height, width) map of (1 - SSIM) / 2 of luminance, averaged over halved scales (Wang et al. 2004)."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    x, y = (torch.from_numpy(image @ weights)[None, None] for image in (before, after))
    size = x.shape[-2:]
    total = torch.zeros(1, 1, *size)
    for _ in range(scales):
        total += F.interpolate((1 - _ssim(x, y)) / 2, size=size, mode="bilinear", align_corners=False)
        if min(x.shape[-2:]) >= 16:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return (total / scales)[0, 0].numpy()


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    offsets = torch.arange(-3, 4, dtype=torch.float32)
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    kernel = torch.outer(line, line)[None, None] / line.sum() ** 2

    def blur(image: Tensor) -> Tensor:
        return F.conv2d(F.pad(image, (3, 3, 3, 3), mode="replicate"), kernel)

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mx * my + c1) * (2 * cov + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))
