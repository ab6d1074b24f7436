"""The activation store against raw files on the same disk, in the same run.

    python benchmarks/store.py --folder /data/scratch              # 4 GB written and read, 10 minutes
    python benchmarks/store.py --only pace                         # a generator of 60 images a second
    python benchmarks/store.py --only disk                         # what the disk gives to reads alone
    python benchmarks/store.py --only int8 --model shapes-turbo    # an SAE on float16 against int8 rows
    python benchmarks/store.py --only recording --real-size FOLDER # what recording adds to generation
    python benchmarks/store.py --only dry-run                      # a dry run against the collection it plans

Writing is timed from arrays in memory to the last fsync, checksums, statistics and digests included; raw
files are written and fsynced in pieces of a shard's size. Reading is timed from the disk (the page cache is
asked to forget the files; one epoch) and from the page cache (the second of two epochs); shuffled batches are
float32, decoded from float16.
Rounds alternate; figures are the median and, in brackets, the range over the rounds.
"""

import argparse
import mmap
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from store_with_model import BATCH, BLOCKS, planned, quantisation, recording, spread

from activation_store import Sample, Schema, Store, Writer
from activation_store.entries import shard_files
from activation_store.file_reader import huge_pages
from activation_store.rows import READERS

GRID, WIDTH = (16, 16), 1280
#: Images a second that a generator hands over.
PACE = 60


def schema(dtype: str) -> Schema:
    """SDXL Turbo at 512 px, one step, the paper's four blocks."""
    return Schema(dict.fromkeys(BLOCKS, (*GRID, WIDTH)), (0,), ("cond",), dtype)


def batch(dtype: str) -> dict[str, np.ndarray]:
    """Updates of BATCH images as capture hands them over: float16, or float32 to be quantised."""
    rng = np.random.default_rng(0)
    kind = np.float32 if dtype in ("int8", "float8") else np.float16
    shape = (BATCH, 1, 1, *GRID, WIDTH)
    return {block: rng.standard_normal(shape, dtype=np.float32).astype(kind) for block in BLOCKS}


def write_store(folder: Path, images: int, dtype: str = "float16") -> float:
    """Seconds to write a store of so many images."""
    kind, updates = schema(dtype), batch(dtype)
    begin = time.perf_counter()
    with Writer(folder, kind, total=images) as writer:
        for first in range(0, images, BATCH):
            numbers = range(first, min(first + BATCH, images))
            some = {block: array[: len(numbers)] for block, array in updates.items()}
            writer.append([Sample(i, "a prompt", i) for i in numbers], some)
    return time.perf_counter() - begin


def write_raw(folder: Path, total: int, piece: int) -> float:
    """Seconds to write and fsync `total` bytes in files of `piece` bytes."""
    folder.mkdir()
    data = np.random.default_rng(0).integers(0, 256, piece, np.uint8).tobytes()
    begin = time.perf_counter()
    for number, start in enumerate(range(0, total, piece)):
        with open(folder / str(number), "wb") as file:
            file.write(data[: min(piece, total - start)])
            file.flush()
            os.fsync(file.fileno())
    return time.perf_counter() - begin


def forget(folder: Path) -> None:
    """Ask the page cache to drop a folder's files."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def read_raw(folder: Path) -> float:
    """Seconds to read every file of a store from beginning to end."""
    buffer = bytearray(1 << 24)
    begin = time.perf_counter()
    for path in shard_files(folder):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - begin


def read_shuffled(folder: Path, epochs: int = 1) -> float:
    """Seconds for the last of some epochs of float32 training batches of every block."""
    store = Store.open(folder)
    seconds = 0.0
    for block in BLOCKS:
        begin, count, rows = time.perf_counter(), 0, len(store[block])
        for batch in store[block].batches(4096, seed=1, epochs=epochs):
            count += len(batch)
            if count == (epochs - 1) * rows:
                begin = time.perf_counter()
        assert count == epochs * rows
        seconds += time.perf_counter() - begin
    return seconds


def read_again(folder: Path) -> float:
    """Seconds for the second of two epochs: the first left the files in the page cache."""
    return read_shuffled(folder, epochs=2)


def writing(folder: Path, images: int, rounds: int) -> list[tuple[str, str]]:
    """Rows of the table about writing. A ratio is of two runs that follow each other."""
    kind = schema("float16")
    total = images * kind.sample_bytes
    raw, ours, cores = [], [], []
    for _ in range(rounds + 1):  # the first round is not counted: the disk's free space is laid out in it
        raw.append(write_raw(folder / "raw", total, min(total, kind.shard_samples * kind.sample_bytes)))
        shutil.rmtree(folder / "raw")
        shutil.rmtree(folder / "store", ignore_errors=True)
        begin = time.process_time()
        ours.append(write_store(folder / "store", images))
        cores.append(time.process_time() - begin)
    shutil.rmtree(folder / "store")
    rows = compare("write", "raw files with fsync", "store", total, raw[1:], ours[1:])
    return [*rows, ("write: core seconds an image, store", f"{np.median(cores[1:]) / images:.4f}")]


def paced(folder: Path, images: int, rounds: int) -> list[tuple[str, str]]:
    """Rows about a generator that hands over PACE images of four steps a second, 10 MB each, or as fast as
    they are taken: beside raw files of as many bytes, twice those of `writing`, so that the end, when
    the last shard is digested and nothing is made beside it, weighs as little as it does in a run."""
    kind = Schema(dict.fromkeys(BLOCKS, (*GRID, WIDTH)), tuple(range(4)), ("cond",), "float16")
    updates = {block: np.repeat(array, 4, 1) for block, array in batch("float16").items()}
    images = max(BATCH, images // 2 // BATCH * BATCH)
    total = images * kind.sample_bytes
    raw, ours, waited = [], [], []
    for _ in range(rounds + 1):  # the first round is not counted, as in `writing`
        raw.append(write_raw(folder / "raw", total, min(total, kind.shard_samples * kind.sample_bytes)))
        shutil.rmtree(folder / "raw")
        begin = due = time.perf_counter()
        with Writer(folder / "paced", kind, total=images) as writer:
            for first in range(0, images, BATCH):
                due += BATCH / PACE
                time.sleep(max(0.0, due - time.perf_counter()))
                writer.append([Sample(i, "a prompt", i) for i in range(first, first + BATCH)], updates)
            waited.append(100 * writer.waited / (time.perf_counter() - begin))
        ours.append(time.perf_counter() - begin)
        shutil.rmtree(folder / "paced")
    what = f"{PACE} images a second"
    rows = compare(what, "raw files with fsync", "store", total, raw[1:], ours[1:])
    return [*rows, (f"{what}: asked for, GB/s", f"{PACE * kind.sample_bytes / 1e9:.2f}"),
            (f"{what}: of the time the generator waited, %", spread(waited[1:], 1))]  # fmt: skip


def reading(folder: Path, images: int, rounds: int) -> list[tuple[str, str]]:
    """Rows of the table about reading. Each way reads twice in a round, as a virtual machine takes as long to
    find new memory, for the cache or for pools, as to read into it. The second time counts; raw reading's
    first is shown too.
    """
    total = images * schema("float16").sample_bytes
    write_store(folder / "read", images)
    cores: dict[str, list[float]] = {}

    def twice(read: Callable[[Path], float], where: str) -> list[float]:
        times = []
        for turn in ("new memory", "once more"):
            if where == "disk":
                forget(folder / "read")
            begin = time.process_time()
            times.append(read(folder / "read"))
            name = f"read, {where}: core seconds a GB, {read.__name__}, {turn}"
            cores.setdefault(name, []).append((time.process_time() - begin) / total * 1e9)
        return times

    rows: list[tuple[str, str]] = []
    for where, shuffle in (("disk", read_shuffled), ("page cache", read_again)):
        times = [(*twice(read_raw, where), *twice(shuffle, where)) for _ in range(rounds)]
        first, second, _, ours = (list(column) for column in zip(*times, strict=True))
        if where == "disk":
            rows += compare("read, disk", "raw, into new memory", "shuffled batches", total, first, ours)
        rows += compare(f"read, {where}", "raw, once more", "shuffled batches", total, second, ours)
    rows += [(name, spread(some)) for name, some in cores.items() if "disk" in name]
    opening = [open_shards(folder / "read") * 1000 for _ in range(rounds)]
    shutil.rmtree(folder / "read")
    return [*rows, ("opening a shard from the disk, ms", spread(opening, 1))]


def open_shards(folder: Path) -> float:
    """Seconds a shard to open and check them all and to find their chunks."""
    forget(folder)
    store = Store.open(folder)
    begin = time.perf_counter()
    for number in range(len(store.entries)):
        with store.shards.chunks(number):
            pass
    return (time.perf_counter() - begin) / len(store.entries)


def disk(folder: Path, images: int, rounds: int) -> list[tuple[str, str]]:
    """What the disk gives to a reader's threads that ask for pieces of a chunk's size at random, and do
    nothing with them: through the page cache, and past it into memory of small and of huge pages.
    """
    piece = 640 << 10
    write_store(folder / "disk", images)
    paths = shard_files(folder / "disk")
    places = [(path, at) for path in paths for at in range(0, path.stat().st_size - piece, piece)]
    np.random.default_rng(0).shuffle(places)

    def read(flags: int, memory: Callable[[int], np.ndarray]) -> float:
        files = {path: os.open(path, os.O_RDONLY | flags) for path in paths}

        def some(numbers: range) -> None:
            buffer = memory(piece)[:piece].data
            for path, at in (places[number] for number in numbers):
                os.preadv(files[path], [buffer], at)

        begin = time.perf_counter()
        with ThreadPoolExecutor(READERS) as threads:
            list(threads.map(some, [range(start, len(places), READERS) for start in range(READERS)]))
        for descriptor in files.values():
            os.close(descriptor)
        return time.perf_counter() - begin

    ways: dict[str, tuple[int, Callable[[int], np.ndarray]]] = {
        "through the page cache": (0, huge_pages),
        "past it, small pages": (os.O_DIRECT, lambda size: np.frombuffer(mmap.mmap(-1, size), np.uint8)),
        "past it, huge pages": (os.O_DIRECT, huge_pages),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    cores: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            forget(folder / "disk")
            begin = time.process_time()
            rates[name].append(len(places) * piece / 1e9 / read(*way))
            cores[name].append((time.process_time() - begin) / (len(places) * piece / 1e9))
    shutil.rmtree(folder / "disk")
    return [
        (f"disk, at random, {name}: GB/s; core seconds a GB", f"{spread(rates[name])}; {spread(cores[name])}")
        for name in ways
    ]


def compare(
    what: str, plain: str, ours: str, total: int, base: list[float], times: list[float]
) -> list[tuple[str, str]]:
    """Three rows: GB/s of both, and their ratio in each round."""
    rates = [[total / second / 1e9 for second in seconds] for seconds in (base, times)]
    ratios = [one / other for one, other in zip(base, times, strict=True)]
    return [
        (f"{what}: {plain}, GB/s", spread(rates[0])),
        (f"{what}: {ours}, GB/s", spread(rates[1])),
        (f"{what}: {ours} to {plain}, ratio", spread(ratios)),
    ]


def sizes(folder: Path) -> list[tuple[str, str]]:
    """Rows of the table about bytes: of the vectors alone, and of everything in the files."""
    rows = []
    for dtype in ("float16", "int8", "float8"):
        kind = schema(dtype)
        write_store(folder / dtype, kind.shard_samples, dtype)
        vectors = kind.shard_samples * kind.sample_vectors
        whole = sum(entry.bytes for entry in Store.open(folder / dtype).entries)
        per_vector = kind.sample_bytes / kind.sample_vectors
        rows.append((f"bytes a vector, {dtype}", f"{per_vector:g} ({whole / vectors:.1f} with all else)"))
    return rows


def memory(folder: Path, images: int) -> list[tuple[str, str]]:
    """Peak memory of processes that write and then read a small, a large and a twice as large store."""
    rows = []
    for count in (images // 4, images, 2 * images):
        peak = peak_memory(folder / f"memory{count}", count)
        shutil.rmtree(folder / f"memory{count}")
        stored = count * schema("float16").sample_bytes / 1e6
        rows.append((f"peak memory, store of {stored:,.0f} MB", f"{peak:,.0f} MB"))
    return rows


def peak_memory(folder: Path, images: int) -> float:
    """Peak resident MB of a process that writes and then reads a store of so many images."""
    code = f"import store; store.measure_memory({str(folder)!r}, {images})"
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here, check=True)
    return float(done.stdout)


def measure_memory(folder: str, images: int) -> None:
    """Write and read a store, then print this process's peak memory in MB."""
    write_store(Path(folder), images)
    read_shuffled(Path(folder))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


PARTS = ("write", "pace", "read", "disk", "size", "memory", "int8", "recording", "dry-run")


def main() -> None:
    """Run what was asked for and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=["write", "read", "size", "memory"])
    parser.add_argument("--folder", type=Path, help="where to write; default the system's temporary folder")
    parser.add_argument("--images", type=int, default=1536, help="images of the large store, 2.6 MB each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--model", default="shapes-turbo", help="a model of the Shapes world, for int8, dry-run"
    )
    parser.add_argument("--model-images", type=int, default=400)
    parser.add_argument("--real-size", help="an SDXL model for recording (see `unbox recipe real-size`)")
    parser.add_argument("--real-images", type=int, default=BATCH)
    parser.add_argument("--real-batch", type=int, default=BATCH)
    arguments = parser.parse_args()
    if "recording" in arguments.only and not arguments.real_size:
        parser.error("recording needs --real-size FOLDER")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        run = {
            "write": lambda: writing(folder, arguments.images, arguments.rounds),
            "pace": lambda: paced(folder, arguments.images, arguments.rounds),
            "read": lambda: reading(folder, arguments.images, arguments.rounds),
            "disk": lambda: disk(folder, arguments.images, arguments.rounds),
            "size": lambda: sizes(folder),
            "memory": lambda: memory(folder, arguments.images),
            "int8": lambda: quantisation(folder, arguments.model, arguments.model_images),
            "dry-run": lambda: planned(folder, arguments.model, arguments.rounds),
            "recording": lambda: recording(
                folder, arguments.real_size, arguments.real_images, arguments.real_batch, arguments.rounds
            ),
        }
        rows = [row for part in arguments.only for row in run[part]()]
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows))


if __name__ == "__main__":
    main()
