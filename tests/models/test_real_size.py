import json
import math
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from tests.models.test_parts import everything
from tests.models.tiny import tiny_unet, tiny_vae
from unbox.cli.main import main
from unbox.errors import UnboxError
from unbox.models import SYSTEMS, load, real_size


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (real_size.sdxl_unet, 2_567_463_684),
        (real_size.refiner_unet, 2_259_526_660),
        (real_size.clip_l, 123_060_480),
        (real_size.clip_big_g, 694_659_840),
        (real_size.sdxl_vae, 83_653_863),
    ],
)
def test_parameters_as_published(build, count):
    with torch.device("meta"):
        assert build().num_parameters() == count


def test_the_unets_have_their_transformer_blocks():
    """70 BasicTransformerBlocks and 140 attentions in base, 44 in the refiner."""
    with torch.device("meta"):
        base, refiner = real_size.sdxl_unet(), real_size.refiner_unet()
    assert len(base.attn_processors) == 140
    names = [name for name, _ in refiner.named_modules()]
    assert len([name for name in names if re.fullmatch(r".*transformer_blocks\.\d+", name)]) == 44


def test_lightnings_lora_has_its_published_size():
    """Rank 64 on everything but the ends and the time embedding, in kohya's layout: right to the byte."""
    with torch.device("meta"):
        unet = real_size.sdxl_unet()
    table, end = {}, 0
    for name in sorted(everything(unet), key=lambda name: name.replace(".", "_")):
        rows, *columns = unet.get_submodule(name).weight.shape
        ones = [1 for _ in columns[1:]]
        shapes = {"alpha": [], "lora_down.weight": [64, *columns], "lora_up.weight": [rows, 64, *ones]}
        for kind, shape in shapes.items():
            start, end = end, end + 2 * math.prod(shape)
            key = f"lora_unet_{name.replace('.', '_')}.{kind}"
            table[key] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    header = len(json.dumps(table, separators=(",", ":")))
    assert 8 + header + -header % 8 + end == SYSTEMS["sdxl-lightning-4step-lora"].parts[0].bytes


def small_architectures():
    """The same architectures with small parts, except the tokenizer, which is the real one's size."""
    text = {
        "clip_l": lambda: real_size.CLIPTextModel(real_size._text_config(24, 32, 2, 2, 24, "quick_gelu")),
        "clip_big_g": lambda: real_size.CLIPTextModelWithProjection(
            real_size._text_config(40, 32, 2, 2, 32, "gelu")
        ),
    }
    parts = {
        "base": {
            "unet": tiny_unet,
            "vae": tiny_vae,
            "text_encoder": text["clip_l"],
            "text_encoder_2": text["clip_big_g"],
        },
        "refiner": {
            "unet": lambda: tiny_unet(context=40, time_ids=5),
            "vae": tiny_vae,
            "text_encoder_2": text["clip_big_g"],
        },
    }
    return {
        name: real_size.Architecture(plan.pipeline, plan.system, parts[name], plan.options)
        for name, plan in real_size.ARCHITECTURES.items()
    }


@pytest.fixture
def small(monkeypatch):
    """The writer with small parts."""
    monkeypatch.setattr(real_size, "ARCHITECTURES", small_architectures())


@pytest.mark.parametrize("architecture", ["base", "refiner"])
def test_what_is_written_loads_and_draws(small, architecture, tmp_path):
    folder = real_size.write_random(tmp_path / "random", architecture)
    model = load(folder)
    assert model.dtype == torch.bfloat16
    assert model.system.name == f"sdxl-random-{architecture}"
    start = {} if architecture == "base" else {"image": start_image(), "steps": 4}
    (image,) = model.generate("zebra, größer 12!", seed=0, height=64, width=64, output="np", **start)
    assert np.isfinite(image).all()
    assert image.std() > 0


def start_image(side=64):
    return Image.new("RGB", (side, side), (200, 30, 90))


def test_weights_come_from_the_seed_alone(small, tmp_path):
    first, same, other = (
        real_size.write_random(tmp_path / name, "base", torch.float32, seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    file = "unet/diffusion_pytorch_model.safetensors"
    assert (first / file).read_bytes() == (same / file).read_bytes()
    assert (first / file).read_bytes() != (other / file).read_bytes()
    with safe_open(first / file, "pt") as tensors:
        weight = tensors.get_tensor("mid_block.resnets.0.conv1.weight")
    assert weight.std().item() == pytest.approx((3 * 128 * 9) ** -0.5, rel=0.02)


def test_mistakes(small, tmp_path):
    with pytest.raises(UnboxError, match="no architecture 'sd3'"):
        real_size.write_random(tmp_path / "x", "sd3")
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        real_size.write_random(tmp_path / "there")
    assert not list(tmp_path.glob("x*"))


@pytest.mark.slow
@pytest.mark.real_size
@pytest.mark.skipif(
    "UNBOX_REAL_SIZE" not in os.environ, reason="set UNBOX_REAL_SIZE=1: 7 GB of disk, 9 of memory"
)
@pytest.mark.parametrize("architecture", ["base", "refiner"])
def test_the_real_size_draws(architecture, tmp_path):
    folder, image = tmp_path / "model", tmp_path / "image.png"
    assert main(["recipe", "real-size", "--out", str(folder), "--architecture", architecture]) == 0
    start_image(512).save(tmp_path / "start.png")
    call = [
        "generate",
        "--model",
        str(folder),
        "--prompt",
        "test",
        "--height",
        "512",
        "--width",
        "512",
        "--out",
        str(image),
    ]
    refine = ["--image", str(tmp_path / "start.png"), "--steps", "4"]  # one of four, at strength 0.3
    assert main([*call, *(["--steps", "1"] if architecture == "base" else refine)]) == 0
    with Image.open(image) as drawn:
        assert drawn.size == (512, 512)
