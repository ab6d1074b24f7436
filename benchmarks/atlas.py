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
        self.atlas, self.saes = atlas, saes

    def feature(self, name: str) -> None:
        sae, _, index = name.rpartition("/")
        self.saes[sae].feature(int(index))


def times(work, cases) -> np.ndarray:
    """Milliseconds of each case."""
    found = []
    for case in cases:
        start = time.perf_counter()
        work(case)
        found.append(1000 * (time.perf_counter() - start))
    return np.array(found)


def main() -> None:
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
    o = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = o.home or Path(folder)
        ready = home / "store" / "ready"
        store = (
            Store.open(home / "store")
            if ready.exists()
            else make_store(home / "store", o.images, o.blocks, o.side, o.width, o.positions)
        )
        ready.touch()
        saes = {block: make_sae(block, o.latents, o.width, o.k) for block in store.blocks}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, start_cpu = time.perf_counter(), time.process_time()
        atlas = Atlas.open(build(store, saes, home / "atlas", progress=o.home is not None))
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        size = sum(p.stat().st_size for p in atlas.folder.rglob("*") if p.is_file())
        random = np.random.default_rng(1)
        names = [f"{random.choice(store.blocks)}/{random.integers(o.latents)}" for _ in range(100)]
        pages = times(lambda name: body(Shown(atlas, saes), name, None), names)
        searches = times(atlas.search, [" ".join(random.choice(WORDS, 2)) for _ in range(100)])
    print(
        f"{len(atlas):,} features, {o.images:,} images of {o.side}x{o.side} places"
        f"{f', {o.positions} kept' if o.positions else ''}, k {o.k}, width {o.width}"
    )
    print(
        f"build            {seconds:8.1f} s   ({o.images * o.blocks / seconds:.0f} images x blocks a second)"
    )
    places = o.images * o.blocks * (o.positions or o.side**2)
    whole = 4 * o.whole * o.side**2
    print(f"processor time   {cpu:8.0f} s   ({places / cpu:,.0f} places a second)")
    hours = cpu * whole / places / 3600
    print(f"extrapolated     {hours:8.1f} h   of a core for {o.whole:,} whole grids in 4 blocks")
    print(f"peak memory      {peak / 1024:8.0f} MB  ({(peak - before) / 1024:.0f} MB over the start)")
    print(f"atlas on disk    {size / 2**20:8.0f} MB")
    print(f"feature page     {np.median(pages):8.0f} ms median, {np.quantile(pages, 0.95):.0f} ms p95")
    print(f"search by words  {np.median(searches):8.1f} ms median, {np.quantile(searches, 0.95):.1f} ms p95")


if __name__ == "__main__":
    main()
