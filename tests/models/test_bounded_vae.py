"""The VAE whose memory is bounded: its pictures are those of diffusers' own, its casts are made once."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.models.memory_count import MemoryCount
from tests.models.tiny import tiny_pipeline, tiny_vae
from unbox.models import bounded_vae, load, weight_hash
from unbox.models.bounded_vae import BoundedVAE, bounded
from unbox.models.hub import quiet
from unbox.models.real_size import sdxl_vae


def latents(count, side=8, seed=0):
    return torch.randn((count, 4, side, side), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def small(monkeypatch):
    """Bounds at the size of the tiny VAE: three pictures of 16 px at once, tiles above 48 px."""
    monkeypatch.setattr(bounded_vae, "SLICE_PIXELS", 3 * 16 * 16)
    monkeypatch.setattr(bounded_vae, "TILE_PIXELS", 48 * 48)


@torch.no_grad()
def test_pictures_in_slices_are_those_of_one_decode(small):
    plain, ours = tiny_vae(), bounded(tiny_vae())
    calls = []
    ours.decoder.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    z = latents(7)
    torch.testing.assert_close(ours.decode(z).sample, plain.decode(z).sample, atol=2e-6, rtol=1e-5)
    assert calls == [3, 3, 1]
    pictures = torch.rand((7, 3, 16, 16), generator=torch.Generator().manual_seed(1))
    same = ours.encode(pictures).latent_dist.mode(), plain.encode(pictures).latent_dist.mode()
    torch.testing.assert_close(*same, atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_few_pictures_are_coded_as_they_were_to_the_bit(small):
    plain, ours = tiny_vae(), bounded(tiny_vae())
    assert torch.equal(ours.decode(latents(3)).sample, plain.decode(latents(3)).sample)
    assert type(ours) is BoundedVAE
    assert not ours.use_tiling


@torch.no_grad()
def test_large_pictures_are_coded_in_tiles_as_diffusers_does(small):
    plain, ours = tiny_vae(), bounded(tiny_vae())
    for vae in (plain, ours):
        vae.tile_latent_min_size, vae.tile_sample_min_size = 16, 32
    plain.enable_tiling()
    large, below = latents(1, 32), latents(1, 24)
    assert torch.equal(ours.decode(large).sample, plain.decode(large).sample)
    assert not torch.equal(ours.decode(below).sample, plain.decode(below).sample)
    assert not ours.use_tiling


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A tiny SDXL in float16 whose VAE asks for float32, as SDXL's does."""
    folder = tiny_pipeline(tmp_path_factory.mktemp("tiny"))
    with quiet():
        pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float16)
        pipeline.vae.register_to_config(force_upcast=True)
        pipeline.save_pretrained(folder.parent / "half")
    return folder.parent / "half"


@pytest.mark.filterwarnings("ignore:.upcast_vae.:FutureWarning")  # of the plain pipeline
def test_a_vae_that_asks_for_float32_is_cast_once_and_makes_the_same_pictures(half):
    with quiet():
        plain = StableDiffusionXLPipeline.from_pretrained(half, dtype=torch.float16)
    model = load(half, "float16", "cpu")
    vae = model.pipeline.vae
    before = [tensor.data_ptr() for tensor in vae.parameters()]
    call = {"num_inference_steps": 2, "guidance_scale": 0.0, "output_type": "np", "height": 64, "width": 64}
    plain.set_progress_bar_config(disable=True)
    pictures = [
        pipeline(["a cat"] * 2, generator=torch.Generator().manual_seed(1), **call).images
        for pipeline in (plain, model.pipeline)
    ]
    assert np.array_equal(*pictures)
    assert [tensor.data_ptr() for tensor in vae.parameters()] == before
    assert {tensor.dtype for tensor in vae.parameters()} == {torch.float32}
    assert vae.dtype == torch.float16
    assert weight_hash(vae) == weight_hash(plain.vae)


@pytest.mark.filterwarnings("ignore:.upcast_vae.:FutureWarning")
def test_pictures_to_refine_are_encoded_as_they_were(half):
    with quiet():
        plain = StableDiffusionXLPipeline.from_pretrained(half, dtype=torch.float16)
    model = load(half, "float16", "cpu")
    picture = np.random.default_rng(0).random((1, 64, 64, 3), dtype=np.float32)
    call = {"num_inference_steps": 4, "strength": 0.5, "guidance_scale": 0.0, "output_type": "np"}
    made = []
    for pipeline in (plain, model.pipeline):
        again = StableDiffusionXLImg2ImgPipeline(**pipeline.components, add_watermarker=False)
        again.set_progress_bar_config(disable=True)
        made.append(again("a cat", image=picture, generator=torch.Generator().manual_seed(1), **call).images)
    assert np.array_equal(*made)


def test_it_is_saved_as_diffusers_own(tmp_path):
    bounded(tiny_vae()).save_pretrained(tmp_path / "vae")
    again = AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert AutoencoderKL.load_config(tmp_path / "vae")["_class_name"] == "AutoencoderKL"
    assert weight_hash(again) == weight_hash(tiny_vae())


@pytest.mark.parametrize(("batch", "side"), [(1, 1024), (8, 1024), (8, 512)])
def test_memory_at_real_size_does_not_grow_with_the_batch(batch, side):
    """Fake tensors: SDXL's own VAE in float32. Pictures of a batch are 12 bytes a pixel."""
    peaks = []
    for count in (max(1, 1024**2 // side**2), batch):
        with FakeTensorMode(), torch.no_grad():
            vae = bounded(sdxl_vae())
            z = torch.empty(count, 4, side // 8, side // 8)
            with MemoryCount() as counted:
                vae.decode(z)
        peaks.append(counted.peak)
    assert peaks[1] <= peaks[0] + 2 * batch * side * side * 12 + 1e6
    assert peaks[1] < 4.2e9
