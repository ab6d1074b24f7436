"""Batches gathered and decoded on a device are those that the store gives, in every number format."""

import numpy as np
import pytest
import torch

from activation_store import Sample, Schema, Store, Writer
from unbox.sae.device_rows import DeviceBatches


@pytest.fixture(params=["float16", "bfloat16", "float32", "int8", "float8"])
def store(request, tmp_path) -> Store:
    schema = Schema({"mid.0": (2, 3, 8)}, (0,), ("cond",), dtype=request.param, shard_samples=4)
    values = np.random.default_rng(0).normal(size=(10, 1, 1, 2, 3, 8)).astype(np.float32)
    if request.param == "bfloat16":
        values = (values.view(np.uint32) >> 16).astype(np.uint16)
    with Writer(tmp_path / "acts", schema) as writer:
        writer.append([Sample(i, f"number {i}", i) for i in range(10)], {"mid.0": values})
    return Store.open(tmp_path / "acts")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_rows_are_those_of_the_store(store, device):
    options = {"seed": 3, "epochs": 2, "pool_bytes": 400}
    expected = list(store["mid.0"].batches(7, **options))
    found = DeviceBatches(store["mid.0"].batches(7, **options), torch.device(device))
    cursors, batches = [], []
    for batch in found:
        batches.append(batch.cpu().numpy())
        cursors.append(found.cursor)
    assert len(batches) == len(expected) == 18
    for one, other in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    rest = store["mid.0"].batches(7, **options, cursor=cursors[4])
    again = DeviceBatches(rest, torch.device(device))
    np.testing.assert_array_equal(next(again).cpu().numpy(), expected[5])
    again.close()
