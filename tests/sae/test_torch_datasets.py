"""PyTorch's views of rows, in loaders with and without processes of their own."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from activation_store import AlignedRows, join_stores
from tests.activation_store import fakes
from unbox.errors import UnboxError
from unbox.sae import ImageUpdates, ShuffledRows
from unbox.sae.row_source import ArrayRows


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return fakes.make(tmp_path_factory.mktemp("rows") / "acts", 23)


def as_set(rows):
    return sorted(map(bytes, np.asarray(rows, np.float32)))


def truth(store, block="mid.0"):
    return as_set(np.concatenate([store[block].read(i).reshape(-1, 8) for i in range(len(store))]))


def test_an_epoch_is_every_row_once_in_the_order_of_seed_and_epoch(store):
    data = ShuffledRows(store["mid.0"], 10, seed=3)
    batches = list(data)
    assert {type(batch) for batch in batches} == {torch.Tensor}
    assert [len(batch) for batch in batches] == [10] * 36 + [8]
    first = torch.cat(batches)
    assert as_set(first) == truth(store)
    assert torch.equal(torch.cat(list(ShuffledRows(store["mid.0"], 10, seed=3))), first)
    data.set_epoch(1)
    second = torch.cat(list(data))
    assert as_set(second) == truth(store)
    assert not torch.equal(first, second)
    both = torch.from_numpy(np.concatenate(list(store["mid.0"].batches(10, seed=3, epochs=2))))
    assert torch.equal(torch.cat([first, second]), both)  # the order of the store's own batches
    assert not torch.equal(torch.cat(list(ShuffledRows(store["mid.0"], 10, seed=4))), first)


def test_workers_and_ranks_share_an_epoch(store):
    """Two ranks with two worker processes each, which persist over epochs."""
    epochs = {0: [], 1: []}
    for rank in (0, 1):
        data = ShuffledRows(store["mid.0"], 10, rank=rank, world=2)
        loader = DataLoader(data, batch_size=None, num_workers=2, persistent_workers=True)
        for epoch in epochs:
            data.set_epoch(epoch)
            epochs[epoch].append(torch.cat(list(loader)))
    for parts in epochs.values():
        assert as_set(torch.cat(parts)) == truth(store)
        assert min(map(len, parts)) > 100
    assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))


def test_rows_of_every_kind(store):
    array = np.arange(60, dtype=np.float32).reshape(20, 3)
    assert as_set(torch.cat(list(ShuffledRows(ArrayRows(array), 7)))) == as_set(array)
    joined = join_stores([store.path, store.path])["mid.0"]
    assert len(torch.cat(list(ShuffledRows(joined, 64)))) == 2 * len(store["mid.0"])
    pair = AlignedRows((store["mid.0"].filter(steps=[0]), store["mid.0"].filter(steps=[0])))
    assert next(iter(ShuffledRows(pair, 5))).shape == (5, 16)


def test_images_are_what_the_store_has(store):
    images = ImageUpdates(store["up.1.0"])
    assert len(images) == 23
    for i in (0, 7, -1):
        torch.testing.assert_close(images[i], torch.from_numpy(store["up.1.0"].read(i % 23)))
    with pytest.raises(IndexError, match="image 23 of 23"):
        images[23]
    loader = DataLoader(images, batch_size=4, num_workers=1)
    found = torch.cat(list(loader))
    torch.testing.assert_close(found[11], images[11])
    assert found.shape == (23, 2, 2, 4, 4, 4)
    some = images.__getitems__([9, 2, 9])
    assert [torch.equal(one, images[i]) for one, i in zip(some, (9, 2, 9), strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"rank": 2, "world": 2}, "rank = 2: should be less than the number of ranks, 2"),
    ],
)
def test_sizes_that_are_none_are_refused(store, given, message):
    with pytest.raises(UnboxError, match=message):
        ShuffledRows(store["mid.0"], **{"batch_size": 4, **given})
