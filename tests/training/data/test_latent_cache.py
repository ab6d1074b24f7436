"""Latents and text embeddings on disk: the model's own, resumable, of these images and encoders alone."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.tiny import tiny_pipeline
from tests.training.data.pictures import folder_of, picture, png
from unbox.errors import UnboxError
from unbox.models import load
from unbox.training.data import latent_cache
from unbox.training.data.aspect_buckets import AspectBuckets
from unbox.training.data.image_folders import ImageFolder
from unbox.training.data.latent_cache import LatentCache, example_bytes
from unbox.training.data.latent_encoders import LatentEncoders, normalised

BUCKETS = AspectBuckets(((64, 64), (48, 80)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model"), device="cpu")


@pytest.fixture
def folder(tmp_path):
    place = folder_of(tmp_path / "data", {f"{i}": f"a red cat {i}" for i in range(5)})
    return folder_of(place / "wide", {"w": "a dog"}, (48, 80)).parent


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(latent_cache, "SHARD", 2)


def made(place, folder, model, **options):
    cache, source, encoders = (
        LatentCache(place, BUCKETS, **options),
        ImageFolder(folder),
        LatentEncoders(model),
    )
    cache.begin(source, encoders)
    cache.encode(source, encoders, progress=False)
    return cache


def contents(place):
    return {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}


def test_examples_are_what_the_pipeline_itself_makes_of_them(tmp_path, folder, model):
    cache = made(tmp_path / "cache", folder, model)
    assert cache.record().counts == (5, 1)
    found = cache.examples(0, np.array([4, 0]))
    pipeline = model.pipeline
    for row, number in enumerate((4, 0)):
        pixels = pipeline.image_processor.preprocess(picture(number))
        with torch.no_grad():
            mode = pipeline.vae.encode(pixels).latent_dist.mode()
        expected = (mode * pipeline.vae.config.scaling_factor)[0]
        assert torch.allclose(found.latents[row].float(), expected, atol=2e-3)
        context, _, pooled, _ = pipeline.encode_prompt(
            f"a red cat {number}", do_classifier_free_guidance=False
        )
        assert torch.allclose(found.context[row].float(), context[0], atol=5e-3)
        assert torch.allclose(found.pooled[row].float(), pooled[0], atol=5e-3)
    assert found.sizes.tolist() == [[64, 64, 0, 0, 64, 64]] * 2
    assert cache.examples(1, np.array([0])).latents.shape == (1, 4, 24, 40)


def test_latents_are_normalised_as_the_pipeline_undoes_it():
    """The pipeline decodes latents * std / scale + mean, in numpy."""
    rng = np.random.default_rng(0)
    raw, mean, std = rng.normal(size=(2, 4, 3, 3)), rng.normal(size=4), rng.uniform(0.5, 2, 4)
    config = {"scaling_factor": 0.7, "latents_mean": mean.tolist(), "latents_std": std.tolist()}
    ours = normalised(torch.from_numpy(raw), config).numpy()
    assert np.allclose(ours * std[None, :, None, None] / 0.7 + mean[None, :, None, None], raw, atol=1e-6)
    assert np.allclose(normalised(torch.from_numpy(raw), {"scaling_factor": 0.7}).numpy(), raw * 0.7)


def test_what_is_missing_is_made_again_alike_by_any_number_of_processes(tmp_path, folder, model):
    whole = made(tmp_path / "whole", folder, model)
    parts, source, encoders = (
        LatentCache(tmp_path / "parts", BUCKETS),
        ImageFolder(folder),
        LatentEncoders(model),
    )
    parts.begin(source, encoders)
    assert parts.missing() == 4
    parts.encode(source, encoders, 1, 2, progress=False)
    assert parts.missing() == 2
    parts.encode(source, encoders, 0, 2, progress=False)
    assert contents(parts.folder) == contents(whole.folder)


def touched(folder):
    os.utime(folder / "0.png", ns=(1, 1))


#: What is changed in the folder -> what is said of it; None: it is the same.
CHANGES = {
    "the caption of 3.png was 'a red cat 3', is 'a dog'": lambda f: (f / "3.txt").write_text("a dog"),
    "2.png has changed": lambda f: (f / "2.png").write_bytes(png(9)),
    "1.png is gone|where 1.png was, there is 2.png": lambda f: (f / "1.png").unlink(),
    "z.png is new|where wide/w.png was, there is z.png": lambda f: folder_of(f, {"z": "x"}),
    "": touched,
}


@pytest.mark.parametrize("message", CHANGES)
def test_other_images_and_captions_are_refused_by_name(tmp_path, folder, model, message):
    cache, encoders = made(tmp_path / "cache", folder, model), LatentEncoders(model)
    before = contents(cache.folder)
    CHANGES[message](folder)
    if message:
        with pytest.raises(UnboxError, match=message):
            cache.begin(ImageFolder(folder), encoders)
    else:
        cache.begin(ImageFolder(folder), encoders)
    assert contents(cache.folder) == before


def test_an_image_changed_within_its_size_and_time_of_change_of_old_is_seen_by_its_bytes(tmp_path, model):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (64, 64), colour).save(folder / f"{name}.bmp")
        (folder / f"{name}.txt").write_text("x")
    cache = made(tmp_path / "cache", folder, model)
    Image.new("RGB", (64, 64), "green").save(folder / "b.bmp")
    os.utime(folder / "b.bmp", ns=(5, 5))
    with pytest.raises(UnboxError, match=r"b\.bmp has changed"):
        cache.begin(ImageFolder(folder), LatentEncoders(model))


def test_other_encoders_sizes_and_crops_are_refused_by_name(tmp_path, folder, model):
    place, source = tmp_path / "cache", ImageFolder(folder)
    made(place, folder, model)
    other = load(tiny_pipeline(tmp_path / "other", seed=5), device="cpu")
    for cache, of, message in (
        (LatentCache(place, BUCKETS), other, "VAE was .*; text encoders was"),
        (LatentCache(place, AspectBuckets(((64, 64),))), model, "bucket sizes was"),
        (LatentCache(place, BUCKETS, "random"), model, "crop was center, is random"),
    ):
        with pytest.raises(UnboxError, match=message):
            cache.begin(source, LatentEncoders(of))
    LatentCache(place, BUCKETS, seed=7).begin(source, LatentEncoders(model))  # of no account without crops


def test_a_damaged_shard_is_named(tmp_path, folder, model):
    cache = made(tmp_path / "cache", folder, model)
    (path,) = cache.folder.glob("48x80/*")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UnboxError, match=r"48x80/000000\.safetensors cannot be read .* remove it"):
        cache.examples(1, np.array([0]))


def test_bytes_of_a_million_and_a_half_images(tmp_path, folder, model):
    """An example's bytes are its share of a file; SDXL's at 1024 px take 449 kB, 1.5 million .67 TB."""
    cache = made(tmp_path / "cache", folder, model)
    shard = cache.folder / "64x64" / "000000.safetensors"
    header = 8 + int.from_bytes(shard.read_bytes()[:8], "little")
    text = LatentEncoders(model).text_shape()
    assert shard.stat().st_size - header == 2 * example_bytes((4, 32, 32), text)
    each = example_bytes((4, 128, 128), (77, 2048, 1280))
    assert each == 4 * 128 * 128 * 2 + 77 * 2048 * 2 + 1280 * 2 + 24 + 16
    assert 1_500_000 * each == pytest.approx(0.674e12, rel=0.01)


def test_no_caption_is_zeros_or_the_empty_text_as_the_model_has_it(model):
    encoders = LatentEncoders(model)
    assert all(not part.any() for part in encoders.unconditional())
    pipeline = model.pipeline
    before = pipeline.config.force_zeros_for_empty_prompt
    pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    try:
        assert torch.equal(encoders.unconditional()[0], encoders.texts([""])[0])
    finally:
        pipeline.register_to_config(force_zeros_for_empty_prompt=before)
    assert replace(encoders).identity == encoders.identity
