"""What a batch takes is counted before it is taken: by the figures of the formula, and never by taking it."""

import pytest

from unbox.capture import collect
from unbox.errors import UnboxError
from unbox.models.image_memory import require_pictures


@pytest.fixture
def limit(monkeypatch):
    return lambda size: monkeypatch.setenv("UNBOX_MEMORY_LIMIT", size)


def test_pictures_are_counted_at_twelve_bytes_a_pixel(limit):
    limit("12582912")  # 1024 x 1024 x 12
    require_pictures(1, 1024, 1024)
    with pytest.raises(UnboxError, match=r"a batch of 1 images of 1,024 x 1,032 pixels would take 12.7 MB"):
        require_pictures(1, 1024, 1032)


def test_a_run_is_refused_by_the_maps_of_its_vae_before_it_samples(model, limit):
    model_widths = model.pipeline.vae.config.block_out_channels
    maps = 2 * 2 * model_widths[min(1, len(model_widths) - 1)] * 64 * 64 * 4
    held = 2 * 64 * 64 * (3 + 12)
    call = {"seed": 0, "steps": 1, "guidance": 0.0, "height": 64, "width": 64}
    limit(str(maps + held))
    assert len(model.generate(["a cat"] * 2, **call)) == 2
    limit(str(maps + held - 1))
    with pytest.raises(UnboxError, match="a batch of 2 images of 64 x 64 pixels would take"):
        model.generate(["a cat"] * 2, **call)
    assert len(model.generate(["a cat"] * 2, batch_size=1, **call)) == 2
    assert len(model.generate(["a cat"] * 2, output="latent", **call)) == 2


def test_what_is_recorded_of_batches_is_counted_and_shards_take_none(model, limit, tmp_path):
    run = {"blocks": ["mid.0"], "steps": 1, "guidance": 0.0, "height": 64, "width": 64, "progress": False}
    limit("1GB")
    with pytest.raises(
        UnboxError, match=r"recording the updates of 65,536 images at once, while .* would take"
    ):
        collect(model, ["a"], tmp_path / "s", batch_size=65536, **run)
    assert not (tmp_path / "s").exists()
    kept = collect(model, ["a"], tmp_path / "s", shard_samples=10**6, **run)
    assert len(kept) == 1  # a file of the store may be larger than memory


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"limit": 0}, "collect: limit = 0: should be at least 1"),
        ({"limit": -5}, "collect: limit = -5: should be at least 1"),
        ({"limit": 1.5}, "collect: limit = 1.5: should be a whole number"),
        ({"rank": 2, "world": 2}, "collect: rank = 2: should be less than the number of processes, 2"),
        ({"world": 0}, "collect: world = 0: should be at least 1"),
        ({"keep_steps": ()}, "collect: keep_steps = .*: should have at least 1"),
        ({"thumbnail": -1}, "collect: thumbnail = -1: should be at least 1"),
        ({"thumbnail": False}, "collect: thumbnail = False: should be a whole number"),
        ({"store_dtype": "float4"}, "collect: store_dtype = 'float4': should be one of"),
    ],
)
def test_arguments_of_collecting_that_break_their_rule_are_named(model, tmp_path, given, message):
    with pytest.raises(UnboxError, match=message):
        collect(model, ["a"], tmp_path / "s", **given)
    assert not (tmp_path / "s").exists()
