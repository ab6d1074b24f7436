"""Collecting: the same rows whatever the batch, the ranks and the interruptions."""

import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import unbox
from activation_store import Store, StoreError, verify
from unbox.capture import Stream, estimate, record
from unbox.models.seeds import image_seed
from unbox.words import Prompt, UnboxError

PROMPTS = ["a dog", "a cat", Prompt("a boat", {"colour": "red"}), "a house", "moon and star"]
RUN = {
    "blocks": ("down.2.1", "up.1.0"),
    "steps": 2,
    "guidance": 5.0,
    "batch_size": 2,
    "shard_samples": 2,
    "seed": 9,
}


def collect(model, path, prompts=PROMPTS, **settings):
    return unbox.collect(model, prompts, path, progress=False, **{**RUN, **settings})


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    return collect(model, tmp_path_factory.mktemp("store") / "s")


def test_a_store_holds_what_recording_one_image_at_a_time_gives(model, store):
    """Across batch sizes within rounding: float32's of the model, and float16's of the store."""
    assert store["down.2.1"].shape == (5, 2, 2, 8, 8, 128)
    assert store["up.1.0"].shape == (5, 2, 2, 16, 16, 64)
    seeds = [image_seed(9, i) for i in range(5)]
    assert [sample.seed for sample in store.samples] == seeds
    with record(model, RUN["blocks"]) as tape:
        images = model.generate(PROMPTS, seeds=seeds, steps=2, guidance=5.0, batch_size=1)
    for block in store.blocks:
        got = np.stack([store[block].read(i) for i in range(5)])
        assert np.abs(got - tape[block].numpy()).max() <= 2**-10 * np.abs(got).max()
    assert [sample.prompt for sample in store.samples][2:4] == ["a boat", "a house"]
    assert store.samples[2].meta == {"colour": "red"}
    picture = Image.open(io.BytesIO(store.thumbnail(3)))
    assert picture.format == "WEBP"
    difference = np.abs(np.asarray(picture.convert("RGB"), float) - np.asarray(images[3], float))
    assert picture.size == (64, 64)
    assert difference.mean() < 25


def test_batch_size_changes_only_rounding(model, store, tmp_path):
    """The stated bound: 1e-5 of the largest value, in float32."""
    one, four = (collect(model, tmp_path / str(n), batch_size=n, dtype="float32") for n in (1, 4))
    for block in one.blocks:
        a, b = (np.stack([s[block].read(i) for i in range(5)]) for s in (one, four))
        assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()


def test_ranks_resuming_and_more_prompts_change_nothing(model, store, tmp_path, monkeypatch):
    collect(model, tmp_path, rank=1, world=2)
    assert Store.open(tmp_path).missing(5) == [(0, 2), (4, 5)]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert collect(model, tmp_path).digest == store.digest
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    other = tmp_path / "other"
    assert len(collect(model, other, limit=3)) == 3
    made = os.stat(other / "shards" / "000000000-000000002.h5").st_mtime_ns
    assert collect(model, other).digest == store.digest
    assert os.stat(other / "shards" / "000000000-000000002.h5").st_mtime_ns == made
    assert verify(other).good


def test_another_run_in_the_same_folder_is_refused(model, store):
    with pytest.raises(StoreError, match="seed was 9, is 10"):
        collect(model, store.path, seed=10)
    with pytest.raises(StoreError, match=r"guidance was 5\.0, is 3\.0"):
        collect(model, store.path, guidance=3.0)
    with pytest.raises(StoreError, match="other prompts or seeds at 0"):
        collect(model, store.path, prompts=["a dog", *PROMPTS])


def test_steps_branches_and_positions_may_be_chosen(model, store, tmp_path):
    part = collect(model, tmp_path / "a", keep_steps=(1,), branches=("uncond",), thumbnail=None)
    assert (part["up.1.0"].steps, part["up.1.0"].branches) == ((1,), ("uncond",))
    some = collect(model, tmp_path / "b", positions=9)
    assert some["up.1.0"].shape == (5, 2, 2, 1, 9, 64)
    for i in (0, 4):
        whole = store["up.1.0"].read(i)
        assert np.array_equal(part["up.1.0"].read(i), whole[1:, 1:])
        kept = some["up.1.0"].positions(i)
        assert len(set(kept)) == 9
        assert np.array_equal(some["up.1.0"].read(i)[:, :, 0], whole.reshape(2, 2, 256, 64)[:, :, kept])
    assert some["up.1.0"].positions(0).tolist() != some["up.1.0"].positions(1).tolist()
    with pytest.raises(StoreError, match="without thumbnails"):
        part.thumbnail(0)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_other_number_formats(model, store, tmp_path, dtype):
    other = collect(model, tmp_path, dtype=dtype, limit=2)
    a, b = store["up.1.0"].read(1), other["up.1.0"].read(1)
    assert np.abs(a - b).max() <= 2**-7 * np.abs(a).max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": ("mid.3",)}, "no block 'mid.3'"),
        ({"keep_steps": (2,)}, "step 2 is not of a run of 2 steps"),
        ({"guidance": 0.0, "branches": ("uncond",)}, "branch uncond does not occur at guidance 0"),
        ({"batch_size": 0}, "at least 1"),
        ({"prompts": [Prompt("x", {"a": {1, 2}})]}, "facts of prompt 0 cannot be kept as JSON"),
        ({"prompts": [Prompt("x", {"a": float("nan")})]}, "facts of prompt 0"),
        ({"prompts": ["a dog", 7]}, "prompt 1 is a int, not text"),
    ],
)
def test_what_cannot_be_collected_is_named(model, tmp_path, settings, message):
    with pytest.raises(UnboxError, match=message):
        collect(model, tmp_path, **settings)


def test_an_update_over_float16_stops_with_a_clear_error_and_keeps_what_was_done(folder, tmp_path):
    model = unbox.load(folder, device="cpu")
    collect(model, tmp_path, limit=2)
    with torch.no_grad():
        model.block("up.1.0").proj_out.weight.mul_(1e6)
    model = unbox.models.Model(model.pipeline, model.system)  # hashes are kept once computed
    with pytest.raises(StoreError, match=r"up\.1\.0 in image 0 .*bfloat16 or float32"):
        collect(model, tmp_path / "b")
    assert len(Store.open(tmp_path)) == 2


def test_a_stream_gives_the_rows_of_the_store_without_a_disk(model, store):
    settings = {key: RUN[key] for key in ("steps", "guidance", "batch_size", "seed")}
    stream = Stream(model, PROMPTS, "down.2.1", **settings)
    rows = store["down.2.1"]
    assert (len(stream), stream.width, stream.shape) == (len(rows), rows.width, rows.shape)
    batches = stream.batches(300, seed=2, pool_bytes=100_000)
    first = [next(batches), next(batches)]
    cursor = batches.cursor
    rest = list(batches)
    got = np.concatenate([*first, *rest])
    truth = np.concatenate([rows.read(i).reshape(-1, 128) for i in range(5)])
    assert np.array_equal(got[np.lexsort(got.T)], truth[np.lexsort(truth.T)])
    again = list(stream.batches(300, seed=2, pool_bytes=100_000, cursor=cursor))
    assert all(map(np.array_equal, again, rest))
    some = stream.sample(40, seed=1)
    assert {row.tobytes() for row in some} <= {row.tobytes() for row in truth}
    assert len(some) == 40


def test_an_estimate_tells_vectors_and_bytes_and_writes_nothing(model, tmp_path):
    found = estimate(model, PROMPTS, images=2, **RUN)
    assert found.vectors_per_image == 2 * 2 * (64 + 256)
    assert found.bytes_per_image == 2 * 2 * (64 * 128 + 256 * 64) * 2
    assert found.images == 5
    assert found.seconds_per_image > 0
    text = "\n".join(found.lines(gpus=4))
    assert "5 images: 6,400 vectors" in text
    assert "4 such devices" in text
    with pytest.raises(UnboxError, match="no prompt"):
        estimate(model, [])


COLLECT = """
import sys, unbox
from tests.capture.test_collect import PROMPTS, RUN
model = unbox.load(sys.argv[1], device="cpu")
print("loaded", flush=True)
unbox.collect(model, PROMPTS * 2, sys.argv[2], progress=False, **RUN)
"""


@pytest.mark.slow
def test_kills_of_a_real_collection_change_nothing(model, folder, tmp_path):
    whole = collect(model, tmp_path / "whole", PROMPTS * 2)
    rng = np.random.default_rng(0)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", COLLECT, str(folder), str(tmp_path / "cut")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout.readline() == "loaded\n"
        time.sleep(rng.uniform(0.2, 2.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    cut = collect(model, tmp_path / "cut", PROMPTS * 2)
    assert verify(cut.path).good
    assert len(cut) == 10
    for block in whole.blocks:
        for i in range(10):  # threads may differ between processes: within rounding of float16
            a, b = whole[block].read(i), cut[block].read(i)
            assert np.abs(a - b).max() <= 2**-10 * np.abs(a).max()
