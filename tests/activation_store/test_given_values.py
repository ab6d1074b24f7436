"""What is handed to the store is kept and found as it is, or refused in a line before anything is written."""

import numpy as np
import pytest

from activation_store import AlignedRows, Sample, Store, StoreError, Writer
from activation_store.shards import Shards
from tests.activation_store import fakes

SAMPLE = Sample(0, "a cat", 7, {"n": 1})


def written(folder, sample=SAMPLE, change=lambda array: array, thumbnails=None, dtype="float16"):
    kind = fakes.schema(dtype)
    updates = {block: change(array) for block, array in fakes.updates(kind, 0).items()}
    with Writer(folder, kind, total=1) as writer:
        writer.append([sample], updates, thumbnails)
    return Store.open(folder)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *(
            ({"change": lambda array, kind=kind: array.astype(kind)}, f"are {kind}: should be an array of")
            for kind in ("float64", "complex64", "int32", "bool", "object", "uint16")
        ),
        ({"change": np.ndarray.tolist}, "are list: should be an array of float16 or float32"),
        ({"sample": Sample(0, "a", 1.5)}, "the seed of a sample is a whole number, not 1.5"),
        ({"sample": Sample(0, "a", -3)}, "the seed of a sample is at least 0, not -3"),
        ({"sample": Sample(True, "a", 3)}, "the index of a sample is a whole number, not True"),
        ({"sample": Sample(0, b"a", 3)}, "the prompt of image 0 is bytes, not text"),
        ({"sample": Sample(0, "a", 3, {"x": float("nan")})}, "the facts of image 0 cannot be kept as JSON"),
        ({"sample": Sample(0, "a", 3, {"x": object()})}, "the facts of image 0 cannot be kept as JSON"),
        ({"thumbnails": []}, "thumbnails: should be 1, one for each image"),
        ({"thumbnails": [None]}, "thumbnails: should be 1, one for each image, as bytes"),
    ],
)
def test_what_could_not_be_read_again_as_it_is_is_refused(given, message, tmp_path):
    with pytest.raises(StoreError, match=message):
        written(tmp_path, **given)
    assert len(Store.open(tmp_path)) == 0
    assert written(tmp_path).samples[0] == SAMPLE  # and the folder is good for what is


def test_memory_in_any_order_and_bits_of_bfloat16_are_taken(tmp_path):
    truth = written(tmp_path / "0")["mid.0"].read(0)
    for number, change in enumerate((np.asfortranarray, lambda a: a[..., ::-1].copy()[..., ::-1]), 1):
        assert np.array_equal(written(tmp_path / str(number), change=change)["mid.0"].read(0), truth)
    bits = written(tmp_path / "b", change=lambda a: np.full(a.shape, 0x3FC0, np.uint16), dtype="bfloat16")
    assert (bits["mid.0"].read(0) == 1.5).all()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda rows: rows.filter(samples=[0.5]), "an image is a whole number, not 0.5"),
        (lambda rows: rows.filter(samples=["a"]), "an image is a whole number, not 'a'"),
        (lambda rows: rows.filter(samples=[True]), "an image is a whole number, not True"),
        (lambda rows: rows.filter(samples=[-1]), "image -1 is not among the 5 images"),
        (lambda rows: rows.filter(steps=1.0), "a step is a whole number, not 1.0"),
        (lambda rows: rows.filter(steps=True), "a step is a whole number, not True"),
        (lambda rows: rows.sample(-1), "the number of rows to draw is at least 0, not -1"),
        (lambda rows: rows.sample(1.5), "the number of rows to draw is a whole number, not 1.5"),
        (lambda rows: rows.batches(1.5), "batch_size is a whole number, not 1.5"),
        (lambda rows: rows.batches(2, epochs=0.5), "epochs is a whole number, not 0.5"),
        (lambda rows: rows.batches(2, seed="x"), "seed is a whole number, not 'x'"),
    ],
)
def test_numbers_of_no_rows_are_refused(ask, message, tmp_path):
    store = fakes.make(tmp_path, 5)
    for rows in (store["mid.0"], AlignedRows((store["mid.0"], store["mid.0"]))):
        with pytest.raises(StoreError, match=message):
            ask(rows)


def test_numbers_of_numpy_are_numbers(tmp_path):
    rows = fakes.make(tmp_path, 5)["mid.0"]
    some = rows.filter(samples=np.array([3, 1]), steps=np.int64(1))
    assert (list(some.samples), some.steps) == ([1, 3], (1,))
    assert rows.sample(np.int32(3)).shape == (3, 8)
    assert len(next(rows.batches(np.uint8(2)))) == 2


@pytest.mark.parametrize("shard_samples", [4, 3])
def test_images_of_two_stores_are_compared_once(shard_samples, tmp_path, monkeypatch):
    """By their logs, where shards are alike; else by their prompts, when rows are first put side by side."""
    wide = {"blocks": {"a": (4, 4, 6), "b": (4, 4, 8)}}
    one = fakes.make(tmp_path / "1", 12, **wide)
    two = fakes.make(tmp_path / "2", 12, shard_samples=shard_samples, dtype="float32", **wide)
    pair = AlignedRows((one["a"], two["b"]))
    opened, shard = [], Shards.shard

    def counting(self, number):
        opened.append(number)
        return shard(self, number)

    monkeypatch.setattr(Shards, "shard", counting)
    half = pair.filter(samples=range(0, 12, 2)).filter(steps=1)
    assert opened == []
    assert len(half.samples) == 6
    if shard_samples == 4:
        AlignedRows((one["a"].filter(samples=[1, 5]), two["b"].filter(samples=[1, 5])))
        assert opened == []
    with pytest.raises(StoreError, match="differ in image 1: another prompt or seed"):
        AlignedRows((one["a"].filter(samples=[1, 5]), two["b"].filter(samples=[2, 5])))
