"""Speed and memory of an atlas at full width: building, serving a feature's page, searching.

    python benchmarks/atlas.py [--latents 5120 --blocks 4 --images 2000 --side 16 --positions 0 --width 64]

A store of random updates stands for real ones (what is timed does not depend on what they mean); features,
places and active latents are as many as asked for, and every image has a thumbnail. `--positions 16` keeps
that many places of each image's grid, as `unbox collect --positions` does. With `--home` the store and a
stopped pass are kept, and the same command goes on. Times are of the clock and of the processor; the latter
hardly changes with what else the machine does. Every place of every image is encoded and counted once, and
nothing else grows with the images: `--whole` images of whole grids in four blocks are extrapolated by places.
Prints one table.
"""

import argparse
import io
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from activation_store import Sample, Schema, Store, Writer
from unbox.atlas import Atlas, build
from unbox.explorer.pages.feature_page import body
from unbox.sae.model import SAE, Stats

WORDS = [
    "red",
    "green",
    "blue",
    "dog",
    "cat",
    "bird",
    "tree",
    "house",
    "moon",
    "boat",
    "star",
    "cloud",
    "river",
    "stone",
    "lamp",
    "door",
]


def make_store(path: Path, images: int, blocks: int, side: int, width: int, positions: int) -> Store:
    """Random updates with four captions' words each, and thumbnails of 128 pixels."""
    names = ("down.2.1", "mid.0", "up.0.0", "up.0.1", "up.1.0", "up.1.1")[:blocks]
    grids = dict.fromkeys(names, (side, side, width))
    schema = Schema(grids, (0,), ("cond",), shard_samples=64, positions=positions or None)
    random = np.random.default_rng(0)
    covers = [thumbnail(random) for _ in range(64)]
    with Writer(path, schema) as writer:
        for start in range(0, images, 64):
            some = range(start, min(start + 64, images))
            samples = [Sample(i, " ".join(random.choice(WORDS, 4)), i) for i in some]
            kept = None
            if positions:
                order = random.random((len(some), side * side)).argsort(1)[:, :positions]
                kept = dict.fromkeys(names, np.sort(order, 1))
            shape = (len(some), 1, 1, *schema.grid(names[0]), width)
            updates = {n: random.standard_normal(shape, np.float32) for n in names}
            writer.append(samples, updates, [covers[i % 64] for i in some], kept)
    return Store.open(path)


def thumbnail(random: np.random.Generator) -> bytes:
    """A picture of some size on disk: smooth noise, as WebP."""
    noise = Image.fromarray(random.integers(0, 256, (12, 12, 3), np.uint8), "RGB")
    data = io.BytesIO()
    noise.resize((128, 128), Image.Resampling.BICUBIC).save(data, "WEBP", quality=80)
    return data.getvalue()


def make_sae(block: str, latents: int, width: int, k: int) -> SAE:
    """A random dictionary."""
    draw = torch.Generator().manual_seed(len(block))
    weights = torch.nn.functional.normalize(torch.randn(latents, width, generator=draw), dim=1)
    one = torch.ones(latents)
    stats = Stats(one, one, 4 * one, one * k / latents)
    return SAE(weights, weights, torch.zeros(width), torch.zeros(latents), k, block, block, stats=stats)


class Shown:
    """What a feature's page asks of an ExplorerSession."""

    def __init__(self, atlas: Atlas, saes: dict[str, SAE]) -> None:
        self.atlas, self.dictionaries = atlas, saes

    def has_feature(self, name: str) -> bool:
        sae, _, index = name.rpartition("/")
        return int(index) < self.dictionaries[sae].latents

    def feature(self, name: str) -> None:
        sae, _, index = name.rpartition("/")
        self.dictionaries[sae].feature(int(index))


def times(work, cases) -> np.ndarray:
    """Milliseconds of each case."""
    found = []
    for case in cases:
        start = time.perf_counter()
        work(case)
        found.append(1000 * (time.perf_counter() - start))
    return np.array(found)


def parsed(line: Sequence[str] | None) -> argparse.Namespace:
    """The options of a line."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, value in {
        "latents": 5120,
        "blocks": 4,
        "images": 2000,
        "side": 16,
        "width": 64,
        "positions": 0,
        "k": 10,
        "whole": 1_500_000,
    }.items():
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--home", type=Path, help="folder that is kept; default a temporary one")
    return options.parse_args(line)


def kept_store(o: argparse.Namespace, home: Path) -> Store:
    """The store in `home`, made where it is not."""
    if not (home / "store" / "ready").exists():
        make_store(home / "store", o.images, o.blocks, o.side, o.width, o.positions)
        (home / "store" / "ready").touch()
    return Store.open(home / "store")


def measure_build(o: argparse.Namespace, store: Store, saes: dict[str, SAE], home: Path) -> Atlas:
    """Build, and print what it took at once: hours of work are in it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, start_cpu = time.perf_counter(), time.process_time()
    atlas = Atlas.open(build(store, saes, home / "atlas", progress=o.home is not None))
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = sum(p.stat().st_size for p in atlas.folder.rglob("*") if p.is_file())
    places = o.images * o.blocks * (o.positions or o.side**2)
    rate, hours = o.images * o.blocks / seconds, cpu * 4 * o.whole * o.side**2 / places / 3600
    print(
        f"{len(atlas):,} features, {o.images:,} images of {o.side}x{o.side} places"
        f"{f', {o.positions} kept' if o.positions else ''}, k {o.k}, width {o.width}\n"
        f"build            {seconds:8.1f} s   ({rate:.0f} images x blocks a second)\n"
        f"processor time   {cpu:8.0f} s   ({places / cpu:,.0f} places a second)\n"
        f"extrapolated     {hours:8.1f} h   of a core for {o.whole:,} whole grids in 4 blocks\n"
        f"peak memory      {peak / 1024:8.0f} MB  ({(peak - before) / 1024:.0f} MB over the start)\n"
        f"atlas on disk    {size / 2**20:8.0f} MB",
        flush=True,
    )
    return atlas


def measure_answers(atlas: Atlas, saes: dict[str, SAE]) -> None:
    """Print how long pages of features and searches by words take, 100 of each."""
    random = np.random.default_rng(1)
    chosen = [str(random.choice(list(saes))) for _ in range(100)]
    names = [f"{block}/{random.integers(saes[block].latents)}" for block in chosen]
    pages = times(lambda name: body(Shown(atlas, saes), name, None), names)
    searches = times(atlas.search, [" ".join(random.choice(WORDS, 2)) for _ in range(100)])
    print(f"feature page     {np.median(pages):8.0f} ms median, {np.quantile(pages, 0.95):.0f} ms p95")
    print(f"search by words  {np.median(searches):8.1f} ms median, {np.quantile(searches, 0.95):.1f} ms p95")


def main(line: Sequence[str] | None = None) -> None:
    """All of it."""
    o = parsed(line)
    with tempfile.TemporaryDirectory() as folder:
        home = o.home or Path(folder)
        store = kept_store(o, home)
        saes = {block: make_sae(block, o.latents, o.width, o.k) for block in store.blocks}
        measure_answers(measure_build(o, store, saes, home), saes)


if __name__ == "__main__":
    main()
