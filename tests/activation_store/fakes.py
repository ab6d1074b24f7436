"""Stores of made-up updates: image i's are a function of i alone. Runs as a script, to be killed."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from activation_store import Sample, Schema, Store, Writer

BLOCKS = {"mid.0": (2, 2, 8), "up.1.0": (4, 4, 4)}


def schema(dtype: str = "float16", **fields) -> Schema:
    """Two blocks, two steps, both branches, shards of four images."""
    plain = {"blocks": BLOCKS, "steps": (0, 1), "branches": ("uncond", "cond"), "shard_samples": 4}
    return Schema(**{**plain, "dtype": dtype, "provenance": {"system": "fake", "seed": 0}, **fields})


def sample(i: int) -> Sample:
    return Sample(i, f"picture {i} of a <b>é</b>", 1000 + i, {"number": i})


def thumbnail(i: int) -> bytes:
    return b"RIFF" + bytes([i % 256]) * (i % 7 + 1)


def updates(kind: Schema, i: int) -> dict[str, np.ndarray]:
    """block -> (1, steps, branches, y, x, d) float32 of image i."""
    shapes = {block: kind.shape(block, 1) for block in kind.blocks}
    rng = np.random.default_rng([i, 77])
    return {b: rng.normal(1, 3, shape).astype(np.float32) for b, shape in shapes.items()}


def fill(writer: Writer, count: int, batch: int = 3, pause: float = 0) -> None:
    """Write what `writer`'s rank misses of `count` images, in batches, as a collector does."""
    size = writer.schema.shard_samples
    for start in range(0, count, size):
        stop = min(start + size, count)
        samples = [sample(i) for i in range(start, stop)]
        if not writer.owns(start) or writer.has(start, samples):
            continue
        with writer.shard(start, stop) as shard:
            for first in range(start, stop, batch):
                some = range(first, min(first + batch, stop))
                parts = [updates(writer.schema, i) for i in some]
                joined = {b: np.concatenate([part[b] for part in parts]) for b in writer.schema.blocks}
                shard.append([sample(i) for i in some], joined, [thumbnail(i) for i in some])
                time.sleep(pause)


def make(path: Path, count: int = 10, batch: int = 3, rank: int = 0, world: int = 1, **fields) -> Store:
    """Write (or complete) a store of `count` images and open it."""
    with Writer(path, schema(**fields), rank=rank, world=world) as writer:
        fill(writer, count, batch)
    return Store.open(path)


def expected(kind: Schema, block: str, count: int) -> np.ndarray:
    """(count, steps, branches, y, x, d) float32 before it was encoded."""
    return np.concatenate([updates(kind, i)[block] for i in range(count)])


def contents(folder: Path) -> Mapping[str, bytes]:
    """The bytes of every shard, by name."""
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").glob("*.h5"))}


if __name__ == "__main__":
    folder, count, pause, rank, world = sys.argv[1:]
    with Writer(folder, schema(), rank=int(rank), world=int(world)) as writer:
        print("writing", flush=True)
        fill(writer, int(count), pause=float(pause))
