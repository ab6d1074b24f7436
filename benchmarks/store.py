"""The activation store against raw files on the same disk, in the same run.

    python benchmarks/store.py --folder /data/scratch              # 2 GB written and read: about a minute
    python benchmarks/store.py --model shapes-turbo                # also: an SAE on float16 against int8 rows
    python benchmarks/store.py --real-size FOLDER                  # also: what recording adds to generation

Writing is timed from arrays in memory to the last fsync, checksums, statistics and digests included; a raw
file is written and fsynced in pieces of a shard's size. Rounds alternate and the best of each counts.
Reading is timed once from the disk (the page cache is asked to forget the files) and once from the page
cache.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from activation_store import Sample, Schema, Store, Writer, subset

BLOCKS = ("down.2.1", "mid.0", "up.0.0", "up.0.1")
GRID, WIDTH, BATCH = (16, 16), 1280, 8


def schema(dtype: str) -> Schema:
    """SDXL Turbo at 512 px, one step, the paper's four blocks."""
    return Schema(dict.fromkeys(BLOCKS, (*GRID, WIDTH)), (0,), ("cond",), dtype)


def batch(dtype: str) -> dict[str, np.ndarray]:
    """Updates of BATCH images as capture hands them over: float16, or float32 to be quantised."""
    rng = np.random.default_rng(0)
    kind = np.float32 if dtype == "int8" else np.float16
    shape = (BATCH, 1, 1, *GRID, WIDTH)
    return {block: rng.standard_normal(shape, dtype=np.float32).astype(kind) for block in BLOCKS}


def write_store(folder: Path, images: int, dtype: str = "float16") -> float:
    """Seconds to write a store of so many images."""
    kind, updates = schema(dtype), batch(dtype)
    begin = time.perf_counter()
    with Writer(folder, kind) as writer:
        for start in range(0, images, kind.shard_samples):
            stop = min(start + kind.shard_samples, images)
            with writer.shard(start, stop) as shard:
                for first in range(start, stop, BATCH):
                    numbers = range(first, min(first + BATCH, stop))
                    some = {block: array[: len(numbers)] for block, array in updates.items()}
                    shard.append([Sample(i, "a prompt", i) for i in numbers], some)
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
    for path in sorted((folder / "shards").iterdir()):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - begin


def read_shuffled(folder: Path) -> float:
    """Seconds for one epoch of float32 training batches of every block."""
    store = Store.open(folder)
    begin = time.perf_counter()
    for block in BLOCKS:
        count = sum(len(rows) for rows in store[block].batches(4096, seed=1))
        assert count == len(store[block])
    return time.perf_counter() - begin


def speed(folder: Path, images: int, rounds: int) -> list[tuple[str, str]]:
    """Rows of the table about writing and reading."""
    total = images * schema("float16").sample_bytes
    piece = schema("float16").shard_samples * schema("float16").sample_bytes
    raw, ours = [], []
    for number in range(rounds):
        raw.append(write_raw(folder / f"raw{number}", total, piece))
        shutil.rmtree(folder / f"raw{number}")
        ours.append(write_store(folder / f"store{number}", images))
        if number:
            shutil.rmtree(folder / f"store{number}")
    rows = [
        ("raw write with fsync", f"{total / min(raw) / 1e9:.2f} GB/s"),
        ("store write", f"{total / min(ours) / 1e9:.2f} GB/s = {min(raw) / min(ours):.2f} x raw"),
    ]
    for name, prepare in (("disk", lambda: forget(folder / "store0")), ("page cache", lambda: None)):
        plain, shuffled = [], []
        for _ in range(rounds):
            prepare()
            plain.append(read_raw(folder / "store0"))
            prepare()
            shuffled.append(read_shuffled(folder / "store0"))
        rows += [
            (f"raw sequential read, {name}", f"{total / min(plain) / 1e9:.2f} GB/s"),
            (
                f"shuffled batches, {name}",
                f"{total / min(shuffled) / 1e9:.2f} GB/s = {min(plain) / min(shuffled):.2f} x raw",
            ),
        ]
    return rows


def sizes(folder: Path) -> list[tuple[str, str]]:
    """Rows of the table about bytes: of the vectors alone, and of everything in the files."""
    rows = []
    for dtype in ("float16", "int8"):
        kind = schema(dtype)
        write_store(folder / dtype, kind.shard_samples, dtype)
        vectors = kind.shard_samples * kind.sample_vectors
        whole = sum(entry.bytes for entry in Store.open(folder / dtype).entries)
        per_vector = kind.sample_bytes / kind.sample_vectors
        rows.append((f"bytes a vector, {dtype}", f"{per_vector:g} ({whole / vectors:.1f} with all else)"))
    return rows


def peak_memory(folder: Path, images: int) -> float:
    """Peak resident MB of a process that writes and then reads a store of so many images."""
    code = f"import benchmarks.store as b; b.measure_memory({str(folder)!r}, {images})"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    return float(done.stdout)


def measure_memory(folder: str, images: int) -> None:
    """Write and read a store, then print this process's peak memory in MB."""
    write_store(Path(folder), images)
    read_shuffled(Path(folder))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


def quantisation(folder: Path, model_name: str, images: int) -> list[tuple[str, str]]:
    """FVU on held-out float16 rows of SAEs trained on the float16 and on the int8 form of one store."""
    import unbox
    from unbox.capture import read_prompts

    model = unbox.load(model_name)
    settings = {"limit": images, "thumbnail": None}
    train = unbox.collect(model, read_prompts("shapes"), folder / "train", **settings)
    held = unbox.collect(model, read_prompts("shapes", split="heldout"), folder / "held", **settings)
    coarse = subset(train.path, folder / "train8", dtype="int8")
    rows = []
    for block in train.blocks:
        fitted = [unbox.fit(store[block], k=8, latents=512, seed=0) for store in (train, coarse)]
        fvu = [unbox.evaluate(sae, held[block]).fvu for sae in fitted]
        rows.append(
            (f"FVU of {block}: float16, int8", f"{fvu[0]:.4f}, {fvu[1]:.4f} ({fvu[1] - fvu[0]:+.4f})")
        )
    return rows


def recording(folder: Path, model_name: str, images: int) -> list[tuple[str, str]]:
    """Seconds an image with and without collecting the four blocks; runs alternate."""
    import torch

    import unbox

    model = unbox.load(model_name)
    prompts, plain, collected = ["a dog"] * images, [], []
    model.generate(prompts[:1], seed=0)
    model.fingerprint  # noqa: B018 - hashing the weights is done once and is not part of a run
    for number in range(3):
        begin = time.perf_counter()
        model.generate(prompts, seed=0, batch_size=BATCH)
        plain.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        unbox.collect(model, prompts, folder / f"recorded{number}", progress=False, batch_size=BATCH)
        collected.append(time.perf_counter() - begin)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    share = (min(collected) - min(plain)) / min(plain)
    return [
        (f"collecting on {where}", f"{min(collected) / images:.3g} s an image, {share:+.1%} over generating")
    ]


def main() -> None:
    """Run what was asked for and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where to write; default the system's temporary folder")
    parser.add_argument("--images", type=int, default=768, help="images of the large store, 2.6 MB each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="a model of the Shapes world, for the figures of int8")
    parser.add_argument("--model-images", type=int, default=300)
    parser.add_argument(
        "--real-size", help="an SDXL model to time recording with (see `unbox recipe real-size`)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        rows = speed(folder, arguments.images, arguments.rounds) + sizes(folder)
        few, many = arguments.images // 4, arguments.images
        for images in (few, many):
            megabytes = peak_memory(folder / f"memory{images}", images)
            stored = images * schema("float16").sample_bytes / 1e6
            rows.append((f"peak memory, store of {stored:,.0f} MB", f"{megabytes:,.0f} MB"))
        if arguments.model:
            rows += quantisation(folder, arguments.model, arguments.model_images)
        if arguments.real_size:
            rows += recording(folder, arguments.real_size, 2 * BATCH)
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows))


if __name__ == "__main__":
    main()
