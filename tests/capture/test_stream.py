"""Rows straight from generation: those of a store, each image made once for all blocks, memory as stated."""

import gc
import threading
import time
from contextlib import closing

import numpy as np
import pytest
import torch

import unbox
from tests.capture.test_bad_images import spoil
from unbox.capture import Stream, Streams, collect
from unbox.capture import generation as generation_module
from unbox.capture.collect_settings import CollectSettings
from unbox.capture.generation import Generation
from unbox.capture.prompt_list import PromptList
from unbox.errors import UnboxError
from unbox.models.seeds import image_seed
from unbox.sae import checkpoint, specs, train

PROMPTS = [f"a dog {n}" for n in range(23)]
#: Blocks of two grids: four times as many rows of an image in the second.
BLOCKS = ("mid.0", "up.1.0")
RUN = {"blocks": BLOCKS, "steps": 1, "guidance": 0.0, "seed": 9, "height": 32, "width": 32, "batch_size": 4}


def in_order(x):
    return x[np.lexsort(x.T)]


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    return collect(model, PROMPTS, tmp_path_factory.mktemp("store"), thumbnail=None, progress=False, **RUN)


def buffer_of(store, images):
    return images * sum(len(store[block]) // len(store) * store[block].width * 2 for block in store.blocks)


@pytest.fixture
def made(monkeypatch):
    """The groups of images that are made, in order."""
    numbers = []
    make = Generation.make

    def noting(self, group):
        numbers.append(int(group))
        return make(self, group)

    monkeypatch.setattr(Generation, "make", noting)
    return numbers


def in_turn(batches):
    """Batches of several blocks, the one that is behind next, as training takes them."""
    done = dict.fromkeys(batches, 0.0)
    found = {block: [] for block in batches}
    lengths = {block: each.rows for block, each in batches.items()}
    while done:
        block = min(done, key=done.__getitem__)
        batch = next(batches[block].batches, None)
        if batch is None:
            del done[block]
            continue
        found[block].append(batch)
        done[block] += len(batch) / lengths[block]
    return {block: np.concatenate(parts) for block, parts in found.items()}


class Taken:
    def __init__(self, stream, size, **options):
        self.batches, self.rows = stream.batches(size, **options), len(stream)


def test_blocks_taken_in_turn_share_each_image_and_give_a_stores_rows(model, store, made, monkeypatch):
    pools = []
    new = generation_module.new_pool
    monkeypatch.setattr(generation_module, "new_pool", lambda *a: pools.append(new(*a)) or pools[-1])
    streams = Streams(model, PROMPTS, first=4, buffer_bytes=buffer_of(store, 4), **RUN)
    assert (streams.images, list(streams), len(streams)) == (4, list(BLOCKS), 2)
    got = in_turn({block: Taken(streams[block], 50, seed=2) for block in streams})
    assert sorted(made) == list(range(5))
    for block in BLOCKS:
        rows = store[block].filter(samples=range(4, 23))
        truth = np.concatenate([rows.read(i).reshape(-1, rows.width) for i in range(19)])
        assert np.array_equal(in_order(got[block]), in_order(truth))  # batches of images begin alike
    # Two buffers, and a third of the block that is behind where the grids differ.
    assert len(pools) <= 2 * 2 + 1


def test_ranks_make_other_images_and_all_together(model, store, made):
    options = {"buffer_bytes": buffer_of(store, 4), **RUN}
    parts = []
    for rank in range(2):
        streams = Streams(model, PROMPTS, **options)
        parts.append(in_turn({b: Taken(streams[b], 64, rank=rank, world=2) for b in streams})["mid.0"])
    assert sorted(made) == list(range(6))
    truth = np.concatenate([store["mid.0"].read(i).reshape(-1, store["mid.0"].width) for i in range(23)])
    assert np.array_equal(in_order(np.concatenate(parts)), in_order(truth))


def test_one_block_after_the_other_is_right_and_bounded(model, store, made):
    streams = Streams(model, PROMPTS, buffer_bytes=buffer_of(store, 4), **RUN)
    batches = {block: streams[block].batches(64) for block in streams}
    for block, each in batches.items():
        assert sum(map(len, each)) == len(store[block])
        assert all(len(reader.ready) <= generation_module.KEPT for reader in streams.generation._readers)
    assert 6 < len(made) <= 12


def test_samples_are_of_the_same_images_for_all_blocks(model, store, made):
    streams = Streams(model, PROMPTS, buffer_bytes=buffer_of(store, 4), **RUN)
    found = {block: streams[block].sample(100, seed=1) for block in streams}
    assert len(made) == len(set(made))
    for block, some in found.items():
        assert some.shape == (100, store[block].width)
        assert len(np.unique(some, axis=0)) == 100
        assert np.array_equal(some, streams[block].sample(100, seed=1))
    assert not np.array_equal(found["mid.0"], streams["mid.0"].sample(100, seed=2))


def test_what_nobody_takes_is_not_made(model, store, made):
    streams = Streams(model, PROMPTS, buffer_bytes=buffer_of(store, 4), **RUN)
    batches = {block: streams[block].batches(64) for block in streams}
    for each in batches.values():
        next(each)
    for each in batches.values():
        each.close()
    dropped = streams["mid.0"].batches(64)
    del dropped
    gc.collect()
    with pytest.raises(StopIteration):
        next(batches["mid.0"])
    quiet()
    assert len(made) < 6
    assert [reader.closed for reader in streams.generation._readers] == [True] * 3


def quiet():
    """Wait until nothing is generated any more."""
    for thread in threading.enumerate():
        if thread.name.startswith("unbox-read"):
            thread.join(20)


def weights(sae):
    return [sae.W_enc, sae.W_dec, sae.b_pre, sae.b_lat]


def test_a_stopped_training_goes_on_to_the_same_bits_and_measures_nothing(
    model, store, made, tmp_path, monkeypatch
):
    """On a CPU. The only images made again are those of the buffer that it stood in."""
    plan = {"batch_size": 128, "progress": False, "checkpoint_every": 384, "held_out": store_rows(store, 3)}
    asked = specs(BLOCKS, k=2, latents=24)

    def streams():
        return Streams(model, PROMPTS, first=4, buffer_bytes=buffer_of(store, 4), **RUN)

    def trained(out):
        with torch.random.fork_rng():
            return train(streams(), out, asked, **plan)

    whole = trained(tmp_path / "whole")
    once = len(made)

    class Stop(Exception):
        pass

    write = checkpoint.CheckpointWriter.write

    def stopping(self, run):
        write(self, run)
        raise Stop

    monkeypatch.setattr(checkpoint.CheckpointWriter, "write", stopping)
    del made[:]
    for _ in range(2):
        with pytest.raises(Stop):
            trained(tmp_path / "parts")
        quiet()
    monkeypatch.setattr(checkpoint.CheckpointWriter, "write", write)
    parts = trained(tmp_path / "parts")
    assert len(made) <= once + 2 * 2 * 3  # two stops: the buffer in use, the next, and what was under way
    for name, sae in whole.items():
        assert all(map(torch.equal, weights(sae), weights(parts[name])))
        assert sae.meta["figures"] == parts[name].meta["figures"]
        assert sae.meta["figures"]["rows_from"] == "held-out rows"
        assert sae.meta["figures"]["rows"] == len(store_rows(store, 3)[name])
    with pytest.raises(UnboxError, match="other rows"):
        train(Streams(model, PROMPTS, first=3, buffer_bytes=10**6, **RUN), tmp_path / "parts", asked, **plan)


def store_rows(store, images):
    return {block: store[block].filter(samples=range(images)) for block in BLOCKS}


def test_generating_goes_on_while_a_buffer_is_used(model, store, made):
    streams = Streams(model, PROMPTS, buffer_bytes=buffer_of(store, 4), **RUN)
    with closing(streams["mid.0"].batches(16)) as batches:
        next(batches)  # rows of the first group, which is a buffer
        end = time.monotonic() + 20
        while len(made) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(made) >= 2  # the next one, though nothing of the first but a batch is used
    quiet()


@pytest.mark.parametrize("on_bad", ["skip", "float32"])
def test_the_place_of_a_bad_image_is_taken_by_the_next_of_its_batch(folder, on_bad):
    model = spoil(unbox.load(folder, device="cpu"), "z", float("nan"))
    prompts = [*PROMPTS[:5], "z", *PROMPTS[6:8]]
    run = {**RUN, "batch_size": 4, "buffer_bytes": 10**7}
    streams = Streams(model, prompts, on_bad=on_bad, **run)
    with pytest.warns(UserWarning, match="image 5 is left out|made again alone"):
        rows = np.concatenate(list(streams["mid.0"].batches(64)))
    assert list(streams.absent) == [5]
    good = Streams(model, PROMPTS[:8], **run)
    truth = np.concatenate(list(good["mid.0"].batches(64)))
    size = len(rows) // 8
    # The same order of the same images, but for one.
    same = np.abs(rows - truth).max(1) <= 2**-8 * np.abs(truth).max()
    assert np.isfinite(rows).all()
    assert len(rows) - size <= same.sum() < len(rows)
    with pytest.raises(UnboxError, match="image 5 of the run"):
        list(Streams(model, prompts, **run)["mid.0"].batches(64))
    with pytest.warns(UserWarning, match="image 0"), pytest.raises(UnboxError, match="no image of 0 to 1"):
        list(Streams(model, ["z", "z"], on_bad="skip", **run)["mid.0"].batches(64))


def test_mistakes(model, store):
    with pytest.raises(UnboxError, match="smaller than a batch of images"):
        Streams(model, PROMPTS, buffer_bytes=1000, **RUN)
    with pytest.raises(UnboxError, match="no prompts"):
        Streams(model, PROMPTS, first=23, **RUN)
    with pytest.raises(UnboxError, match="take no thumbnail"):
        Streams(model, PROMPTS, thumbnail=32, **RUN)
    with pytest.raises(UnboxError, match="2 buffers of rows would take"):
        Streams(model, PROMPTS, buffer_bytes=2**39, **RUN)
    with pytest.raises(KeyError):
        Streams(model, PROMPTS, **RUN)["up.0.1"]


def test_prompts_are_their_texts_in_memory():
    from unbox.capture.collect import numbered

    texts = [f"{'ü' * (n % 7)}{n}" for n in range(1000)]
    prompts = PromptList(numbered(texts, None, CollectSettings(seed=5)), 5)
    assert [each.prompt for each in prompts] == texts
    assert [each.seed for each in prompts] == [image_seed(5, n) for n in range(1000)]
    assert prompts.nbytes == sum(len(text.encode()) for text in texts) + 8 * 1000
    other = PromptList(numbered([*texts[:-1], "x"], None, CollectSettings(seed=5)), 5)
    assert other.digest != prompts.digest
    assert PromptList(numbered(texts, None, CollectSettings(seed=6)), 6).digest != prompts.digest


def test_inputs_and_tokens_are_streamed_as_a_store_would_keep_them(model, tmp_path):
    texts = {"blocks": ["text.2.1"], "what": ["output"], "batch_size": 4, "seed": 9}
    maps = {**RUN, "blocks": ["mid.0"], "what": ["input"]}
    for options, name in ((texts, "text.2.1.output"), (maps, "mid.0.input")):
        kept = collect(model, PROMPTS, tmp_path / name, progress=False, **options)
        streamed = Streams(model, PROMPTS, buffer_bytes=1 << 20, **options)[name]
        with closing(streamed.batches(64)) as batches:
            found = np.concatenate(list(batches))
        assert np.array_equal(in_order(found), in_order(np.concatenate(list(kept[name].batches(64)))))
    options = {key: value for key, value in maps.items() if key != "blocks"}
    assert Stream(model, PROMPTS, "mid.0", **options).block == "mid.0.input"
    with pytest.raises(UnboxError, match=r"a stream is of one of mid\.0, mid\.0\.input: choose `what`"):
        Stream(model, PROMPTS, "mid.0", **{**options, "what": ["update", "input"]})
