"""Distances between an image and its edited version, and scores of either.

A metric is built once for an experiment and takes pairs; it answers numbers by name. Inside and outside are
weighted by the pair's mask; without one, only the whole image is measured.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType

import numpy as np
import torch

from unbox.errors import UnboxError
from unbox.experiments.clip_metric import load_clip
from unbox.experiments.critics import BY_CLIP, Figures, ImagePair, Metric, critics
from unbox.experiments.lpips_metric import load_lpips, lpips
from unbox.experiments.picture_tensors import rgb

#: Weights of red, green and blue in luminance (ITU-R BT.601), of which SSIM was defined.
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)

#: Side of SSIM's Gaussian window (Wang et al. 2004), and the number of halved scales that are averaged.
WINDOW, SCALES = 11, 3


def pixels(pairs: Sequence[ImagePair]) -> list[Figures]:
    """`rmse`: root mean square difference of RGB in 0..1."""
    squares = [_parts("rmse", ((rgb(p.after) - rgb(p.before)) ** 2).mean(-1), p) for p in pairs]
    return [{name: value**0.5 for name, value in of.items()} for of in squares]


def structure(pairs: Sequence[ImagePair]) -> list[Figures]:
    """`dssim`: (1 - SSIM) / 2 of luminance at three scales, averaged: the offline stand-in for LPIPS.

    SSIM is scikit-image's with the constants of Wang et al. 2004: a Gaussian window of 11 pixels, sigma 1.5,
    K 0.01 and 0.03. (Versions before cut the window at 7 pixels; their figures are up to 7 % smaller.)
    """
    return [_parts("dssim", _dssim(rgb(p.before) @ LUMINANCE, rgb(p.after) @ LUMINANCE), p) for p in pairs]


def colour(pairs: Sequence[ImagePair]) -> list[Figures]:
    """`delta_e`: distance in CIE Lab (1976, D65). `lightness`, `chroma`: mean change of L* and of C*."""
    to_lab = _skimage("colour").color.rgb2lab
    rows = []
    for pair in pairs:
        before, after = to_lab(rgb(pair.before)), to_lab(rgb(pair.after))
        change = after - before
        chroma = np.linalg.norm(after[..., 1:], axis=-1) - np.linalg.norm(before[..., 1:], axis=-1)
        rows.append(
            _parts("delta_e", np.linalg.norm(change, axis=-1), pair)
            | {"lightness": float(change[..., 0].mean()), "chroma": float(chroma.mean())}
        )
    return rows


#: What figures of a metric are found again by, where it has been defined anew: those of before are not found.
REVISIONS = {"structure": f"structure, window {WINDOW}"}

#: Metrics without weights, by the name that an experiment's file uses.
METRICS: Mapping[str, Callable[..., list[Figures]]] = {
    "pixels": pixels,
    "structure": structure,
    "colour": colour,
}


def make_metric(name: str, clip_model: str | None = None, device: torch.device | str = "cpu") -> Metric:
    """The metric of a name, of any image or a critic's; those with networks compute on `device`.

    Raises UnboxError, saying what to do, where it is unknown or lacks weights or a library.
    """
    known: dict[str, Metric] = {**METRICS, **{n: m for c in critics().values() for n, m in c.metrics.items()}}
    if name == "lpips":
        return partial(lpips, network=load_lpips(str(device)))
    if name in BY_CLIP:
        if clip_model is None:
            raise UnboxError(
                f"the metric '{name}' needs `clip_model = ...`: a Hub id or a folder with a CLIP model"
            )
        return load_clip(clip_model, str(device))
    if name not in known:
        raise UnboxError(f"no metric '{name}'; there are {', '.join([*known, 'lpips', *BY_CLIP])}")
    if name in ("structure", "colour"):
        _skimage(name)
    return known[name]


def _parts(name: str, distance: np.ndarray, pair: ImagePair) -> Figures:
    """Mean of a (height, width) distance over the image, and inside and outside the mask."""
    figures = {name: float(distance.mean())}
    if pair.mask is not None:
        for part, weights in (("inside", pair.mask), ("outside", 1 - pair.mask)):
            figures[f"{name}_{part}"] = float((distance * weights).sum() / max(weights.sum(), 1e-9))
    return figures


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
