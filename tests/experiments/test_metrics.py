"""Metrics against what they should say of images that are known."""

import sys
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from unbox.errors import UnboxError
from unbox.experiments.clip_metric import ClipMetric
from unbox.experiments.critics import ImagePair, critics
from unbox.experiments.metrics import colour, make_metric, pixels, structure

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (32, 32, 3), np.uint8)
LEFT = np.repeat([[1.0] * 16 + [0.0] * 16], 32, 0)


def image(array):
    return Image.fromarray(np.asarray(array, np.uint8))


@pytest.mark.parametrize("metric", [pixels, structure, colour])
def test_an_image_is_at_no_distance_from_itself(metric):
    figures = metric([ImagePair(image(NOISE), image(NOISE), "x", LEFT)])[0]
    assert all(value == pytest.approx(0, abs=1e-5) for value in figures.values())


@pytest.mark.parametrize("metric", [pixels, structure, colour])
def test_what_changed_inside_the_mask_is_inside(metric):
    changed = NOISE.copy()
    changed[:, :8] = 255 - changed[:, :8]
    figures = metric([ImagePair(image(NOISE), image(changed), "x", LEFT)])[0]
    name = next(iter(figures))
    assert figures[f"{name}_inside"] > 10 * figures[f"{name}_outside"]


def test_rmse_is_the_root_mean_square():
    figures = pixels([ImagePair(image(np.zeros((4, 4, 3))), image(np.full((4, 4, 3), 51)), "x")])[0]
    assert figures == {"rmse": pytest.approx(0.2)}


def test_lab_of_known_colours():
    black, white = np.zeros((2, 2, 3)), np.full((2, 2, 3), 255)
    assert colour([ImagePair(image(black), image(white), "x")])[0]["delta_e"] == pytest.approx(100, abs=0.05)
    red, green = white.copy(), white.copy()
    red[..., 1:], green[..., [0, 2]] = 0, 0
    figures = colour([ImagePair(image(red), image(green), "x")])[0]
    assert figures["delta_e"] == pytest.approx(170.6, abs=0.5)  # CIE76 of sRGB red and green
    assert figures["lightness"] == pytest.approx(87.7 - 53.2, abs=0.2)


def test_structure_falls_with_noise():
    smooth = np.tile(np.linspace(0, 255, 32)[None, :, None], (32, 1, 3))
    noisy = [np.clip(smooth + s * RNG.standard_normal(smooth.shape), 0, 255) for s in (5, 20, 80)]
    found = [structure([ImagePair(image(smooth), image(n), "x")])[0]["dssim"] for n in noisy]
    assert found == sorted(found)
    assert found[0] < 0.5


def test_structure_of_flat_images_is_the_formula():
    """Without variance SSIM is (2 ab + C1) / (a^2 + b^2 + C1) everywhere, at every scale; C1 = 0.01^2."""
    a, b = 0.2, 0.8
    pair = ImagePair(*(image(np.full((48, 64, 3), 255 * level)) for level in (a, b)), "x", np.eye(48, 64))
    ssim = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert structure([pair])[0] == {
        name: pytest.approx((1 - ssim) / 2, rel=1e-4) for name in ("dssim", "dssim_inside", "dssim_outside")
    }


def test_structure_of_noise_about_itself_is_wang_et_al():
    """One scale against SSIM in full: a normalized Gaussian of 11 pixels, sigma 1.5, mirrored edges."""
    from scipy.ndimage import convolve

    from unbox.experiments import metrics

    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    kernel = np.outer(line, line) / line.sum() ** 2
    x, y = np.random.default_rng(3).random((2, 21, 21)).astype(np.float32)  # too small to be halved

    def mean(z):
        return convolve(z.astype(float), kernel, mode="reflect")

    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    ssim = (2 * mx * my + 1e-4) * (2 * both + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    np.testing.assert_allclose(metrics._dssim(x, y), (1 - ssim) / 2, atol=1e-4)


@pytest.mark.parametrize("name", ["structure", "colour"])
def test_a_missing_library_is_named_with_its_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(UnboxError, match=r"needs scikit-image: pip install 'unbox\[metrics\]'") as caught:
        make_metric(name)
    assert "\n" not in str(caught.value)


def test_a_critic_offers_its_metrics_by_name():
    assert make_metric("factors") is critics()["shapes"].metrics["factors"]


@pytest.mark.parametrize(
    ("name", "clip", "message"),
    [
        ("beauty", None, "there are pixels"),
        ("clip", None, "clip_model ="),
        ("clip", "/nowhere", "no CLIP model"),
    ],
)
def test_a_metric_that_cannot_run_says_why(name, clip, message):
    with pytest.raises(UnboxError, match=message):
        make_metric(name, clip)


def test_clip_scores_by_a_model_in_a_folder(tmp_path):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from tests.models.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer(tmp_path / "words")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config=text, vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=8
    )
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    size = {"height": 32, "width": 32}
    CLIPProcessor(CLIPImageProcessor(size=size, crop_size=size), tokenizer).save_pretrained(tmp_path / "clip")
    metric = make_metric("clip", str(tmp_path / "clip"))
    same, other = metric(
        [ImagePair(image(NOISE), image(NOISE), "a cat"), ImagePair(image(NOISE), image(255 - NOISE), "a cat")]
    )
    assert same["clip_image"] == pytest.approx(1, abs=1e-5)
    assert same["clip_change"] == 0
    assert other["clip_image"] < 1
    assert -1 <= other["clip"] <= 1


def test_each_picture_and_prompt_is_embedded_once():
    """Many conditions of one unedited picture, as objects of their own."""
    seen = Counter()

    def images(pictures):
        seen["pictures"] += len(pictures)
        return F.normalize(
            torch.stack([torch.tensor(np.asarray(p)[:2, :2, 0].ravel() + 1.0) for p in pictures]), dim=-1
        )

    def texts(prompts):
        seen["prompts"] += len(prompts)
        return F.normalize(torch.tensor([[float(len(p)), 1, 2, 3] for p in prompts]).double(), dim=-1)

    metric = ClipMetric(images, texts)
    after = [NOISE + i for i in range(1, 100)]
    found = [figures for part in (after[:60], after[60:]) for figures in metric(
        [ImagePair(image(NOISE), image(each), "a cat") for each in part])]  # fmt: skip
    assert seen == {"pictures": 100, "prompts": 1}
    vectors = [x[:2, :2, 0].ravel() + 1.0 for x in (NOISE, *after)]
    before, *others = (v / np.linalg.norm(v) for v in vectors)
    assert [f["clip_image"] for f in found] == pytest.approx([float(before @ v) for v in others])
    assert metric([]) == []
