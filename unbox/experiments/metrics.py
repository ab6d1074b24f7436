"""Distances between an image and its edited version, and scores of either.

A metric is built once for an experiment and takes pairs; it answers numbers by name. Inside and outside are
weighted by the pair's mask; without one, only the whole image is measured.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

from unbox.errors import UnboxError
from unbox.experiments.critics import Figures, ImagePair, Metric, critics

#: Weights of red, green and blue in luminance (ITU-R BT.601), of which SSIM was defined.
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)

#: Side of SSIM's Gaussian window (Wang et al. 2004), and the number of halved scales that are averaged.
WINDOW, SCALES = 11, 3


def pixels(pairs: Sequence[ImagePair]) -> list[Figures]:
    """`rmse`: root mean square difference of RGB in 0..1."""
    squares = [_parts("rmse", ((_rgb(p.after) - _rgb(p.before)) ** 2).mean(-1), p) for p in pairs]
    return [{name: value**0.5 for name, value in of.items()} for of in squares]


def structure(pairs: Sequence[ImagePair]) -> list[Figures]:
    """`dssim`: (1 - SSIM) / 2 of luminance at three scales, averaged: the offline stand-in for LPIPS.

    SSIM is scikit-image's with the constants of Wang et al. 2004: a Gaussian window of 11 pixels, sigma 1.5,
    K 0.01 and 0.03. (Versions before cut the window at 7 pixels; their figures are up to 7 % smaller.)
    """
    return [_parts("dssim", _dssim(_rgb(p.before) @ LUMINANCE, _rgb(p.after) @ LUMINANCE), p) for p in pairs]


def colour(pairs: Sequence[ImagePair]) -> list[Figures]:
    """`delta_e`: distance in CIE Lab (1976, D65). `lightness`, `chroma`: mean change of L* and of C*."""
    to_lab = _skimage("colour").color.rgb2lab
    rows = []
    for pair in pairs:
        before, after = to_lab(_rgb(pair.before)), to_lab(_rgb(pair.after))
        change = after - before
        chroma = np.linalg.norm(after[..., 1:], axis=-1) - np.linalg.norm(before[..., 1:], axis=-1)
        rows.append(
            _parts("delta_e", np.linalg.norm(change, axis=-1), pair)
            | {"lightness": float(change[..., 0].mean()), "chroma": float(chroma.mean())}
        )
    return rows


def lpips(pairs: Sequence[ImagePair], net: str = "alex") -> list[Figures]:
    """`lpips`: Zhang et al. 2018, by the `lpips` package, whose backbone's weights must be present."""
    with torch.no_grad():
        return [{"lpips": float(_lpips(net)(_signed(p.before), _signed(p.after)))} for p in pairs]


def clip(pairs: Sequence[ImagePair], name: str) -> list[Figures]:
    """`clip`: cosine similarity of the edited image to its prompt; `clip_image`: to the unedited image;
    `clip_change`: what the edit did to the similarity to the prompt."""
    embed_image, embed_text = clip_encoders(name)
    before, after = (embed_image([getattr(p, side) for p in pairs]) for side in ("before", "after"))
    text = embed_text([p.prompt for p in pairs])
    to_text, was, to_before = ((x * y).sum(-1) for x, y in ((after, text), (before, text), (after, before)))
    rows = torch.stack([to_text, to_before, to_text - was], 1).tolist()
    return [dict(zip(("clip", "clip_image", "clip_change"), row, strict=True)) for row in rows]


#: What figures of a metric are found again by, where it has been defined anew: those of before are not found.
REVISIONS = {"structure": f"structure, window {WINDOW}"}

#: Metrics by the name that an experiment's file uses.
METRICS: Mapping[str, Callable[..., list[Figures]]] = {
    "pixels": pixels,
    "structure": structure,
    "colour": colour,
    "lpips": lpips,
    "clip": clip,
}


def make_metric(name: str, clip_model: str | None = None) -> Metric:
    """The metric of a name, of any image or a critic's.

    Raises UnboxError, saying what to do, where it is unknown or lacks weights or a library.
    """
    known: dict[str, Metric] = {**METRICS, **{n: m for c in critics().values() for n, m in c.metrics.items()}}
    if name not in known:
        raise UnboxError(f"no metric '{name}'; there are {', '.join(known)}")
    if name in ("structure", "colour"):
        _skimage(name)
    if name == "lpips":
        _lpips("alex")
    if name != "clip":
        return known[name]
    if clip_model is None:
        raise UnboxError("the metric 'clip' needs `clip_model = ...`: a Hub id or a folder with a CLIP model")
    clip_encoders(clip_model)
    return partial(clip, name=clip_model)


@cache
def _lpips(net: str) -> torch.nn.Module:
    try:
        import lpips as package

        return package.LPIPS(net=net, verbose=False).eval()
    except (ImportError, OSError) as error:
        raise UnboxError(
            f"LPIPS cannot run here ({error}): it needs `pip install 'unbox[metrics]'` and {net}'s weights; "
            "'structure' (multi-scale DSSIM) needs no weights"
        ) from error


@cache
def clip_encoders(
    name: str,
) -> tuple[Callable[[Sequence[Image.Image]], Tensor], Callable[[Sequence[str]], Tensor]]:
    """Functions from images and from texts to unit vectors (count, dim), by a CLIP of transformers."""
    from transformers import AutoProcessor, CLIPModel
    from transformers.utils import ModelOutput

    try:
        model, processor = CLIPModel.from_pretrained(name).eval(), AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UnboxError(f"no CLIP model at '{name}': {str(error).splitlines()[0]}") from error

    def unit(output: Tensor | ModelOutput) -> Tensor:
        return F.normalize(output if isinstance(output, Tensor) else output["pooler_output"], dim=-1)

    @torch.no_grad()
    def images(pictures: Sequence[Image.Image]) -> Tensor:
        inputs = processor(images=[p.convert("RGB") for p in pictures], return_tensors="pt")
        return unit(model.get_image_features(**inputs))

    @torch.no_grad()
    def texts(prompts: Sequence[str]) -> Tensor:
        inputs = processor(text=list(prompts), return_tensors="pt", padding=True, truncation=True)
        return unit(model.get_text_features(**inputs))

    return images, texts


def _parts(name: str, distance: np.ndarray, pair: ImagePair) -> Figures:
    """Mean of a (height, width) distance over the image, and inside and outside the mask."""
    figures = {name: float(distance.mean())}
    if pair.mask is not None:
        for part, weights in (("inside", pair.mask), ("outside", 1 - pair.mask)):
            figures[f"{name}_{part}"] = float((distance * weights).sum() / max(weights.sum(), 1e-9))
    return figures


def _rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), np.float32) / 255


def _signed(image: Image.Image) -> Tensor:
    return torch.from_numpy(rearrange(_rgb(image), "y x c -> 1 c y x")) * 2 - 1


def _dssim(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(height, width) map of (1 - SSIM) / 2 averaged over halved scales, as far as the window fits them."""
    skimage = _skimage("structure")
    shape, total = before.shape, np.zeros_like(before)
    for _ in range(SCALES):
        _, ssim = skimage.metrics.structural_similarity(
            before, after, data_range=1, gaussian_weights=True, use_sample_covariance=False, full=True
        )
        total += skimage.transform.resize((1 - ssim) / 2, shape, order=1, mode="edge", anti_aliasing=False)
        if min(before.shape) >= 2 * WINDOW:
            before, after = (skimage.transform.downscale_local_mean(x, (2, 2)) for x in (before, after))
    return total / SCALES


def _skimage(metric: str) -> ModuleType:
    try:
        import skimage
    except ImportError as error:
        raise UnboxError(
            f"the metric '{metric}' needs scikit-image: pip install 'unbox[metrics]'; 'pixels' does not"
        ) from error
    return skimage
