"""Blocks that are added to a store: what collecting all at once would have kept."""

import fsspec
import numpy as np
import pytest

import unbox
from activation_store import AlignedRows, ShardCache, Store, StoreError, mirror, subset, verify
from tests.capture.test_bad_images import BAD, spoil
from unbox.capture import collect
from unbox.capture.add_blocks import add_blocks
from unbox.capture.collect_settings import CollectOptions
from unbox.cli.store import describe
from unbox.errors import UnboxError

RUN = {"steps": 2, "guidance": 3.0, "seed": 9, "height": 32, "width": 32, "keep_steps": (1,), "positions": 3}
RUN |= {"thumbnail": None, "progress": False, "batch_size": 2, "shard_samples": 4}
PROMPTS = [f"a dog {n}" for n in range(10)]
ADD = CollectOptions(blocks=("up.0.1",), batch_size=2, progress=False)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """A store of two blocks, collected at once."""
    return collect(model, PROMPTS, tmp_path_factory.mktemp("whole"), blocks=("mid.0", "up.0.1"), **RUN)


def test_added_blocks_are_those_of_a_store_collected_at_once(model, whole, tmp_path, monkeypatch):
    acts = tmp_path / "acts"
    first = collect(model, PROMPTS, acts, blocks=("mid.0",), **RUN)
    store = add_blocks(model, acts, ADD)
    assert (store.blocks, store.digest) == (("mid.0", "up.0.1"), first.digest)
    for block in store.blocks:
        np.testing.assert_array_equal(
            store[block].read_images(range(10)), whole[block].read_images(range(10))
        )
        np.testing.assert_array_equal(store[block].positions(3), whole[block].positions(3))
        np.testing.assert_array_equal(store[block].moments.mean, whole[block].moments.mean)
    pair = AlignedRows((store["mid.0"], store["up.0.1"]))
    assert len(pair) == len(store["mid.0"])
    assert "up.0.1" in "\n".join(describe(store))
    (part,) = store.added
    assert verify(part.path).good
    assert [sample.prompt for sample in part.samples] == PROMPTS

    monkeypatch.setattr(model, "generate", None)  # nothing is left to make
    assert add_blocks(model, acts, ADD)["up.0.1"].digest == store["up.0.1"].digest
    with pytest.raises(UnboxError, match=r"has mid.0 already; it has mid.0"):
        add_blocks(model, acts, CollectOptions(blocks=("mid.0",)))
    with pytest.raises(UnboxError, match=r"up.0.1 was added to .* before, beside other blocks"):
        add_blocks(model, acts, CollectOptions(blocks=("down.2.1", "up.0.1")))
    with pytest.raises(StoreError, match=r"up.0.1 was added to .* later: copy its own store, .*added/up.0.1"):
        subset(acts, tmp_path / "part", blocks=["up.0.1"])
    assert subset(acts, tmp_path / "part").blocks == ("mid.0",)

    copy = mirror(f"file://{acts}", tmp_path / "copy")
    assert copy["up.0.1"].digest == store["up.0.1"].digest
    fsspec.filesystem("memory").put(str(acts), "/with-added", recursive=True)
    far = Store.open("memory://with-added", ShardCache(tmp_path / "cache", 1 << 30))
    np.testing.assert_array_equal(far["up.0.1"].read(7), whole["up.0.1"].read(7))


def test_stopped_it_goes_on_and_what_is_not_there_yet_is_said(model, whole, tmp_path, monkeypatch):
    acts = tmp_path / "acts"
    collect(model, PROMPTS[:8], acts, blocks=("mid.0",), **RUN)
    plain, made = model.generate, []

    def generate(prompts, **given):
        made.extend(prompts)
        if len(made) == 6:
            raise KeyboardInterrupt
        return plain(prompts, **given)

    monkeypatch.setattr(model, "generate", generate)
    with pytest.raises(KeyboardInterrupt):
        add_blocks(model, acts, ADD)
    store = Store.open(acts)
    assert store.blocks == ("mid.0",)
    with pytest.raises(StoreError, match=r"up.0.1 was added to .*: it has 4 of 8 images: `unbox store add-"):
        store["up.0.1"]
    made.clear()
    made.append("")  # another count
    assert add_blocks(model, acts, ADD).blocks == ("mid.0", "up.0.1")
    assert made[1:] == PROMPTS[4:8]
    collect(model, PROMPTS, acts, blocks=("mid.0",), **RUN)  # more prompts
    with pytest.raises(StoreError, match="it has 8 of 10 images"):
        Store.open(acts)["up.0.1"]
    made.clear()
    grown = add_blocks(model, acts, ADD)
    assert made == PROMPTS[8:]
    np.testing.assert_array_equal(
        grown["up.0.1"].read_images(range(10)), whole["up.0.1"].read_images(range(10))
    )


def test_ranks_share_an_addition(model, whole, tmp_path):
    acts = tmp_path / "acts"
    collect(model, PROMPTS, acts, blocks=("mid.0",), **RUN)
    for rank in (1, 0):
        store = add_blocks(model, acts, CollectOptions(blocks=("up.0.1",), batch_size=2, rank=rank, world=2))
    np.testing.assert_array_equal(
        store["up.0.1"].read_images(range(10)), whole["up.0.1"].read_images(range(10))
    )


def test_another_model_is_refused_by_name(model, folder, tmp_path):
    acts = tmp_path / "acts"
    collect(model, PROMPTS[:2], acts, blocks=("mid.0",), **RUN)
    other = spoil(unbox.load(folder, device="cpu"), "z", 0.5)
    with pytest.raises(UnboxError, match=r"acts holds another run of `unbox collect`: model"):
        add_blocks(other, acts, ADD)
    assert not (acts / "added").exists()


def test_absent_images_stay_absent(folder, tmp_path):
    spoilt = spoil(unbox.load(folder, device="cpu"), "z", float("nan"))
    acts = tmp_path / "acts"
    with pytest.warns(UserWarning, match="absent: 2 images"):
        collect(spoilt, BAD, acts, blocks=("mid.0",), on_bad="skip", **RUN)
    made, plain = [], spoilt.generate
    spoilt.generate = lambda prompts, **given: made.extend(prompts) or plain(prompts, **given)
    store = add_blocks(spoilt, acts, ADD)
    assert not [prompt for prompt in made if "z" in prompt]
    assert store.absent == store.added[0].absent
    assert len(AlignedRows((store["mid.0"], store["up.0.1"]))) == len(store["up.0.1"]) == 8 * 2 * 3
