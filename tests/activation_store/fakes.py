"""Stores of made-up updates: image i's are a function of i alone. Runs as a script, to be killed."""

import signal
import sys
import time
from collections.abc import Collection, Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from activation_store import Sample, Schema, Store, Writer
from activation_store import writer as writer_module
from activation_store.entries import shard_files

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


def fill(writer: Writer, count: int, batch: int = 3, pause: float = 0, bad: Collection[int] = ()) -> None:
    """Write what `writer`'s rank misses of `count` images, in batches, as a collector does; NaN in `bad`."""
    missing = writer.missing(map(sample, range(count)))
    while some := list(islice(missing, batch)):
        parts = [updates(writer.schema, each.index) for each in some]
        for each, part in zip(some, parts, strict=True):
            if each.index in bad:
                part["mid.0"].flat[5] = np.nan
        joined = {b: np.concatenate([part[b] for part in parts]) for b in writer.schema.blocks}
        writer.append(some, joined, [thumbnail(each.index) for each in some])
        time.sleep(pause)


def make(
    path: Path,
    count: int = 10,
    batch: int = 3,
    rank: int = 0,
    world: int = 1,
    bad: Collection[int] = (),
    on_bad: str = "stop",
    **fields,
) -> Store:
    """Write (or complete) a store of `count` images and open it."""
    kind = schema(**fields)
    with Writer(path, kind, rank=rank, world=world, total=count, on_bad=on_bad) as writer:
        fill(writer, count, batch, bad=bad)
    return Store.open(path)


def expected(kind: Schema, block: str, count: int) -> np.ndarray:
    """(count, steps, branches, y, x, d) float32 before it was encoded."""
    return np.concatenate([updates(kind, i)[block] for i in range(count)])


def contents(folder: Path) -> Mapping[str, bytes]:
    """The bytes of every shard, by name."""
    return {path.name: path.read_bytes() for path in shard_files(folder)}


if __name__ == "__main__":
    folder, count, pause, rank, world, *mode = sys.argv[1:]
    appended = 0
    try:
        with Writer(folder, schema(), rank=int(rank), world=int(world)) as writer:
            if mode == ["publish"]:  # after each batch, though its shard is not full
                writer_module.PUBLISH_EVERY = 0.0
            if mode == ["term"]:
                signal.signal(signal.SIGTERM, lambda *_: sys.exit())
                plain = writer.append

                def append(samples, *rest):
                    global appended
                    plain(samples, *rest)
                    appended += len(samples)

                writer.append = append
            print("writing", flush=True)
            fill(writer, int(count), pause=float(pause))
    finally:
        print(appended)
