"""What is written is read, in every number format."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from activation_store import Sample, Schema, Store, StoreError, UnstorableError, Writer, why_unstorable
from activation_store.moments import CHANNEL_BINS
from activation_store.number_formats import NUMBER_FORMATS, decode, encode
from tests.activation_store import fakes

#: Largest error of each format, relative to the vector's largest magnitude.
TOLERANCE = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 0, "int8": 0.5 / 127 * 1.0001, "float8": 2**-4}


@pytest.mark.parametrize("dtype", NUMBER_FORMATS)
def test_updates_samples_and_thumbnails_come_back(tmp_path, dtype):
    store = fakes.make(tmp_path, 10, dtype=dtype)
    assert len(store) == 10
    assert store.blocks == tuple(fakes.BLOCKS)
    assert list(store.samples) == [fakes.sample(i) for i in range(10)]
    assert [store.thumbnail(i) for i in range(10)] == [fakes.thumbnail(i) for i in range(10)]
    for block in store.blocks:
        rows, truth = store[block], fakes.expected(store.schema, block, 10)
        assert rows.shape == truth.shape
        got = np.stack([rows.read(i) for i in range(10)])
        assert got.dtype == np.float32
        bound = TOLERANCE[dtype] * np.abs(truth).max(-1, keepdims=True)
        assert (np.abs(got - truth) <= bound).all()


@pytest.mark.parametrize("dtype", NUMBER_FORMATS)
@given(x=arrays(np.float32, (3, 5), elements=st.floats(-6e4, 6e4, width=32, allow_subnormal=False)))
def test_encoding_keeps_every_vector_and_encodes_its_own_output_to_itself(dtype, x):
    values, scale = encode(x, dtype)
    back = decode(values, scale, dtype)
    floor = 2.0**-24 if dtype == "float16" else 1e-37
    assert (np.abs(back - x) <= TOLERANCE[dtype] * np.abs(x).max(-1, keepdims=True) + floor).all()
    if np.abs(x).max() > 1e-30:
        again, scale_again = encode(back, dtype)
        assert np.array_equal(decode(again, scale_again, dtype), back)


@given(x=arrays(np.float32, (4, 64), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)))
def test_float8_keeps_each_number_to_a_sixteenth_or_a_thousandth_of_the_scale(x):
    values, scale = encode(x, "float8")
    assert (values.dtype, values.itemsize) == (np.uint8, 1)
    error, step = np.abs(decode(values, scale, "float8") - x), scale[:, None]
    assert (error <= np.maximum(np.abs(x) / 16, step / 1024) * 1.00001 + 1e-37).all()
    assert (scale <= np.abs(x).max(-1) / 448 * 1.0001 + 1e-37).all()


def test_float8_is_torchs_e4m3_to_the_last_bit():
    import torch

    x = np.random.default_rng(0).normal(0, 100, (50, 448)).astype(np.float32) * np.logspace(-6, 0, 448)
    x[:, 0] = 448  # a scale of one
    x = np.clip(x, -448, 448).astype(np.float32)
    values, scale = encode(x, "float8")
    assert (scale == 1).all()
    theirs = torch.from_numpy(x).to(torch.float8_e4m3fn)
    assert np.array_equal(values, theirs.view(torch.uint8).numpy())
    every = np.arange(256, dtype=np.uint8)
    finite = every[(every & 0x7F) != 0x7F]
    known = torch.from_numpy(finite).view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(decode(finite[None], np.ones(1, np.float32), "float8")[0], known)


@pytest.mark.parametrize(
    ("array", "dtype", "message"),
    [
        (np.full(4, np.inf, np.float16), "float16", "over float16's range, keep them as bfloat16 or float32"),
        (np.full(4, 0x7F80, np.uint16), "bfloat16", "over bfloat16's range, keep them as float32"),
        (np.full(4, 0x7FC0, np.uint16), "bfloat16", "holds 4 values that are NaN or infinite"),
        (np.full(4, np.nan, np.float32), "float8", "The model itself gave them"),
        (
            np.full(4, 3.4e38, np.float32),
            "bfloat16",
            "reaches 3.4e.38, over the largest bfloat16.* use float32",
        ),
        (np.full(4, 7e4, np.float32), "float16", "reaches 70000, over .* use bfloat16 or float32"),
    ],
)
def test_the_error_says_what_is_so_in_every_format(array, dtype, message):
    with pytest.raises(UnstorableError, match=message):
        encode(array[None], dtype)
    assert re.search(message, why_unstorable(array[None], dtype))
    assert why_unstorable(np.zeros_like(array[None]), dtype) is None


def test_every_finite_half_float_decodes_as_numpy_does():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    assert np.array_equal(decode(finite, None, "float16"), finite.astype(np.float32))


def test_bfloat16_rounds_as_torch_does():
    import torch

    x = (np.random.default_rng(0).normal(size=4096) * np.logspace(-20, 20, 4096)).astype(np.float32)
    bits = torch.from_numpy(x).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(encode(x, "bfloat16")[0], bits)
    assert np.array_equal(encode(bits, "bfloat16")[0], bits)


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("float16", 70_000, "over the largest float16"),
        ("float16", -70_000, "over the largest float16"),
        ("float16", np.nan, "NaN or infinite"),
        ("bfloat16", np.inf, "NaN or infinite"),
        ("bfloat16", 3.4e38, "over the largest bfloat16"),
        ("float32", np.nan, "NaN or infinite"),
        ("int8", -np.inf, "NaN or infinite"),
        ("int8", np.nan, "NaN or infinite"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_nothing_is_lost(tmp_path, dtype, value, message):
    kind = fakes.schema(dtype)
    bad = fakes.updates(kind, 4)
    bad["mid.0"][0, 1, 0, 1, 1, 3] = value
    with Writer(tmp_path, kind) as writer:
        fakes.fill(writer, 4)
        writer.append([fakes.sample(4)], bad)
        with pytest.raises(UnstorableError, match=message) as caught:
            writer.flush()
    assert "mid.0 in image 4" in str(caught.value)
    assert len(Store.open(tmp_path)) == 4
    assert fakes.make(tmp_path, 6, dtype=dtype).digest == fakes.make(tmp_path / "b", 6, dtype=dtype).digest


@pytest.mark.parametrize("dtype", NUMBER_FORMATS)
def test_zero_and_constant_updates_are_kept(tmp_path, dtype):
    kind = fakes.schema(dtype, blocks={"mid.0": (2, 2, 8)})
    with Writer(tmp_path, kind) as writer:
        for i, value in enumerate((0.0, 2.0)):
            writer.append([fakes.sample(i)], {"mid.0": np.full(kind.shape("mid.0", 1), value, np.float32)})
    rows = Store.open(tmp_path)["mid.0"]
    assert (rows.read(0) == 0).all()
    assert np.abs(rows.read(1) - 2).max() <= (
        2**-15 if dtype in ("int8", "float8") else 0
    )  # a scale has 17 bits


def test_sampled_positions_are_kept_beside_their_rows(tmp_path):
    kind = fakes.schema(positions=5)
    assert kind.shape("up.1.0", 1)[3:5] == (1, 5)
    assert kind.shape("mid.0", 1)[3:5] == (1, 4)
    some = {"up.1.0": np.array([[0, 3, 7, 9, 15]]), "mid.0": np.array([[0, 1, 2, 3]])}
    with Writer(tmp_path, kind) as writer:
        writer.append([fakes.sample(0)], fakes.updates(kind, 0), positions=some)
    rows = Store.open(tmp_path)["up.1.0"]
    assert rows.positions(0).tolist() == [0, 3, 7, 9, 15]
    assert rows.read(0).shape == (2, 2, 1, 5, 4)
    assert fakes.make(tmp_path / "all", 1)["up.1.0"].positions(0).tolist() == list(range(16))


def test_batches_of_writing_change_no_byte(tmp_path):
    stores = [fakes.make(tmp_path / str(batch), 10, batch=batch) for batch in (1, 2, 4)]
    assert len({store.digest for store in stores}) == 1
    assert len({tuple(fakes.contents(store.path).values()) for store in stores}) == 1


def test_bytes_on_disk_per_vector(tmp_path):
    """At SDXL's shape: 2,560 of values in float16 and 1,284 in int8, containers and checksums beside."""
    for dtype, bytes_per_vector in (("float16", 2560), ("int8", 1284), ("float8", 1284)):
        kind = Schema({"mid.0": (16, 16, 1280)}, (0,), ("cond",), dtype, shard_samples=4)
        assert kind.sample_bytes == bytes_per_vector * kind.sample_vectors
        folder = tmp_path / dtype
        with Writer(folder, kind) as writer:
            x = np.random.default_rng(0).normal(size=kind.shape("mid.0", 4)).astype(np.float32)
            writer.append([Sample(i, "a", i) for i in range(4)], {"mid.0": x})
        size = Store.open(folder).entries[0].bytes
        statistics = 1280 * 16 + 640 * 8 + 1280 * CHANNEL_BINS * 2
        assert 0 < size - statistics - bytes_per_vector * 4 * 256 < 16_384


def test_wrong_shapes_and_blocks_are_refused_and_what_came_before_is_kept(tmp_path):
    kind = fakes.schema()
    with Writer(tmp_path, kind) as writer:
        fakes.fill(writer, 1)
        for bad, message in (
            ({"mid.0": np.zeros((1, 2, 2, 2, 2, 8))}, "for a store of"),
            ({**fakes.updates(kind, 1), "mid.0": np.zeros((1, 2, 2, 2, 2, 9), np.float32)}, "have shape"),
        ):
            with pytest.raises(StoreError, match=message):
                writer.append([fakes.sample(1)], bad)
        writer.append([fakes.sample(1)], fakes.updates(kind, 1), [fakes.thumbnail(1)])
    assert Store.open(tmp_path).digest == fakes.make(tmp_path / "whole", 2).digest


@pytest.mark.parametrize(
    ("index", "message"), [(2, "image 2 came where image 1 should"), (5, "image 5 is not rank 0's of 2")]
)
def test_images_out_of_order_are_refused_and_what_came_before_is_kept(tmp_path, index, message):
    kind = fakes.schema()
    with Writer(tmp_path, kind, world=2) as writer:
        fakes.fill(writer, 1)
        writer.append([fakes.sample(index)], fakes.updates(kind, index))
        with pytest.raises(StoreError, match=message):
            writer.flush()
        with pytest.raises(StoreError, match="went wrong before"):
            writer.append([fakes.sample(1)], fakes.updates(kind, 1))
    assert len(Store.open(tmp_path)) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "float4"}, "float16, bfloat16, float32, int8, float8"),
        ({"blocks": {}}, "at least one block"),
        ({"blocks": {"../x": (1, 1, 1)}}, "not a name"),
        ({"blocks": {"mid.0": (1, 1)}}, "not \\(height, width, channels\\)"),
        ({"blocks": {"mid.0": (1, 1, 10**12)}}, "not a size"),
        ({"steps": (1, 0)}, "not ascending"),
        ({"steps": ()}, "not ascending"),
        ({"steps": (-1,)}, "not an index"),
        ({"branches": ("cond", "cond")}, "not a set"),
        ({"positions": 0}, "not a size"),
        ({"shard_samples": -1}, "not a size"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(StoreError, match=message):
        fakes.schema(**fields)
