"""Bytes of what is kept of SDXL: shapes from the real architecture, laid out without memory."""

from types import SimpleNamespace

import pytest
import torch

from unbox.capture.collect_settings import CollectSettings, schema_of
from unbox.models import SYSTEMS
from unbox.models.real_size import clip_big_g, clip_l, sdxl_unet, sdxl_vae
from unbox.models.sites import all_sites, block_sites

#: Of docs/store.md: MB of one image at 512 px, one step, float16, the four default blocks.
TABLE = {
    "update": 2.62,
    "input": 2.62,
    "output": 2.62,
    "skip": 1.31,
    "self_heads": 26.2,
    "cross_heads": 26.2,
    "ff_input": 26.2,
    "ff_output": 26.2,
}
#: Of other sites, their outputs.
SITES = {"text.1.10": 0.118, "text.2.30": 0.197, "vae.decoder.mid": 4.19, "vae.decoder.up.3": 67.1}


@pytest.fixture(scope="module")
def sdxl():
    with torch.device("meta"):
        parts = {
            "unet": sdxl_unet(),
            "vae": sdxl_vae(),
            "text_encoder": clip_l(),
            "text_encoder_2": clip_big_g(),
        }
    reading = SimpleNamespace(model_max_length=77)
    pipeline = SimpleNamespace(**parts, tokenizer=reading, tokenizer_2=reading, vae_scale_factor=8)
    return SimpleNamespace(
        pipeline=pipeline,
        pipelines=(pipeline,),
        refiner=None,
        system=SYSTEMS["sdxl-turbo"],
        size=512,
        all_sites=all_sites((pipeline,)),
        blocks=tuple(block_sites(pipeline.unet)),
    )


def test_bytes_of_each_kind_and_site_of_sdxl(sdxl):
    for kind, size in TABLE.items():
        schema = schema_of(sdxl, CollectSettings(what=["update", kind], steps=1))
        names = [name for name in schema.blocks if kind == "update" or f".{kind}" in name]
        assert sum(map(schema.block_bytes, names)) / 1e6 == pytest.approx(size, rel=5e-3), kind
    for site, size in SITES.items():
        steps = None if site.startswith("text") else 1
        schema = schema_of(sdxl, CollectSettings(blocks=[site], what=["output"], steps=steps))
        assert schema.sample_bytes / 1e6 == pytest.approx(size, rel=5e-3), site


def test_skip_connections_of_sdxl(sdxl):
    """What the down side gives: (320, 320, 320, 320, 640, 640, 640, 1280, 1280), taken from the end."""
    skips = [f"up.{level}.{i}" for level in range(3) for i in range(3)]
    schema = schema_of(sdxl, CollectSettings(blocks=skips, what=["skip"], steps=1, height=1024, width=512))
    assert [schema.blocks[f"{name}.skip"] for name in skips] == [
        (32, 16, 1280), (32, 16, 1280), (32, 16, 640),
        (64, 32, 640), (64, 32, 640), (64, 32, 320),
        (128, 64, 320), (128, 64, 320), (128, 64, 320),
    ]  # fmt: skip
