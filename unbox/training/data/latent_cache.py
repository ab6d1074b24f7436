"""Latents, text embeddings and micro-conditioning of a training set on disk, encoded once.

    cache.json                       what it was made of: encoders, buckets, crop, seed; images of each bucket
    index.jsonl                      the images and captions, a line each
    1024x1024/000000.safetensors     256 examples of a bucket: latents, context, pooled, sizes, digests

A shard is written whole or not at all, so that encoding goes on after a stop; which example is in which shard
is decided by the index alone, so that any number of processes make the same files.
"""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from activation_store.files import canonical, write_json
from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.models.seeds import image_seed
from unbox.run_folder import refuse_others
from unbox.sae.safetensors_io import write_tensors
from unbox.text_files import read_json_file
from unbox.training.data.aspect_buckets import AspectBuckets, Crop, Cut
from unbox.training.data.captioned_image import ImageSource
from unbox.training.data.image_index import ImageIndex, IndexRow
from unbox.training.data.latent_encoders import LatentEncoders
from unbox.validation import Amount, JSONObject, Several, Text, parsed, validated

#: Examples of a shard.
SHARD = 256
#: Images that are decoded and resized ahead of the encoders, and by how many threads.
AHEAD, THREADS = 32, 8
#: Images and captions encoded at once (`unbox.models.bounded_vae` takes fewer): bits may depend on how many.
ENCODED = 8
#: Shards that are held open.
OPEN = 128
VERSION = 1


@validated
class CacheRecord:
    """`cache.json`."""

    version: Amount
    made_of: JSONObject
    counts: Several[Amount]
    """Examples of each bucket."""
    images: Text
    """Digest of the images' names, sizes and captions."""


@dataclass(frozen=True)
class CachedExamples:
    """A batch: latents (n, channels, h, w), context (n, tokens, width), pooled (n, width), all float16; sizes
    (n, 6) float32: original, crop's corner, target, as (height, width) in pixels."""

    latents: Tensor
    context: Tensor
    pooled: Tensor
    sizes: Tensor

    def to(self, device: torch.device) -> "CachedExamples":
        """The same on a device."""
        return CachedExamples(*(getattr(self, name).to(device, non_blocking=True) for name in vars(self)))


@dataclass
class LatentCache:
    """A cache in a folder: made by `prepare`, read by `examples`."""

    folder: Path
    buckets: AspectBuckets
    crop: Crop = "center"
    seed: int = 0
    _open: "OrderedDict[Path, Any]" = field(default_factory=OrderedDict, init=False)

    @property
    def index(self) -> ImageIndex:
        return ImageIndex(self.folder / "index.jsonl")

    def begin(self, source: ImageSource, encoders: LatentEncoders, limit: int | None = None) -> None:
        """Let the folder be of these images and encoders: list the images, or compare them with the list.

        Raises UnboxError, naming what differs, where it is of other images, captions, encoders, sizes or
        crops. Called by one process, which holds the folder.
        """
        made_of: Mapping[str, JSON] = {
            **encoders.identity,
            "bucket sizes": [list(size) for size in self.buckets.sizes],
            "crop": self.crop,
            "crop seed": self.seed if self.crop == "random" else 0,
        }
        if (self.folder / "cache.json").is_file():
            refuse_others(self.folder, "recipe sdxl", self._record().made_of, made_of)
            self.index.check(source, limit, self._digests())
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.index.write(source, limit)
        counts, told = [0] * len(self.buckets.sizes), hashlib.sha256()
        for row in self.index.rows():
            counts[self.buckets.nearest(row.height, row.width)] += 1
            told.update(canonical([row.key, row.caption, row.size, row.height, row.width]))
        record: JSON = {"version": VERSION, "made_of": made_of, "counts": counts, "images": told.hexdigest()}
        write_json(self.folder / "cache.json", record)

    def record(self) -> CacheRecord:
        """What the cache was made of. Raises UnboxError for a file that says nothing of the kind, and for
        other buckets."""
        record = self._record()
        if len(record.counts) != len(self.buckets.sizes):
            raise UnboxError(
                f"{self.folder} holds a cache of {len(record.counts)} sizes, not {len(self.buckets.sizes)}"
            )
        return record

    def _record(self) -> CacheRecord:
        path = self.folder / "cache.json"
        record = parsed(CacheRecord, read_json_file(path), str(path))
        if record.version != VERSION:
            raise UnboxError(f"{path} is of version {record.version}; this one reads version {VERSION}")
        return record

    def rows(self) -> list[list[IndexRow]]:
        """The images of each bucket, in the order in which `examples` counts them: some 300 bytes each."""
        found: list[list[IndexRow]] = [[] for _ in self.buckets.sizes]
        for row in self.index.rows():
            found[self.buckets.nearest(row.height, row.width)].append(row)
        return found

    def encode(
        self,
        source: ImageSource,
        encoders: LatentEncoders,
        rank: int = 0,
        world: int = 1,
        progress: bool = True,
    ) -> None:
        """Write the shards that are not there yet, each `world`-th of them in this process."""
        total = sum(-(-count // SHARD) for count in self.record().counts)
        bar = tqdm(total=total, desc="encoding images", unit="shard", disable=not progress, leave=False)
        with bar, ThreadPoolExecutor(THREADS) as pool:
            for number, (path, target, rows) in enumerate(self._shards()):
                if number % world == rank and not path.is_file():
                    path.parent.mkdir(exist_ok=True)
                    write_tensors(path, self._encoded(source, encoders, target, rows, pool))
                bar.update()

    def missing(self) -> int:
        """Shards that are still to be written."""
        counts = enumerate(self.record().counts)
        return sum(not self._path(b, n).is_file() for b, count in counts for n in range(-(-count // SHARD)))

    def examples(self, bucket: int, numbers: np.ndarray) -> CachedExamples:
        """The examples of these numbers in a bucket. Raises UnboxError, naming the file, for a shard that is
        damaged or not there."""
        rows = []
        for number in numbers.tolist():
            path = self._path(bucket, number // SHARD)
            try:
                shard = self._shard(path)
                at = number % SHARD
                rows.append(
                    [shard.get_slice(n)[at : at + 1] for n in ("latents", "context", "pooled", "sizes")]
                )
            except (OSError, SafetensorError, IndexError) as error:
                raise UnboxError(
                    f"{path} cannot be read ({error}): remove it, and it is made again"
                ) from None
        latents, context, pooled, sizes = (torch.cat(part) for part in zip(*rows, strict=True))
        return CachedExamples(latents, context, pooled, sizes.float())

    def _shard(self, path: Path) -> Any:
        if path in self._open:
            self._open.move_to_end(path)
        else:
            self._open[path] = safe_open(path, "pt")
            if len(self._open) > OPEN:
                self._open.popitem(last=False)
        return self._open[path]

    def _path(self, bucket: int, shard: int) -> Path:
        height, width = self.buckets.sizes[bucket]
        return self.folder / f"{height}x{width}" / f"{shard:06}.safetensors"

    def _shards(self) -> "Iterator[tuple[Path, tuple[int, int], list[IndexRow]]]":
        """Path, bucket's size and rows of each shard, in the order in which they fill up."""
        sizes = self.buckets.sizes
        waiting: list[list[IndexRow]] = [[] for _ in sizes]
        done = [0] * len(sizes)
        for row in self.index.rows():
            bucket = self.buckets.nearest(row.height, row.width)
            waiting[bucket].append(row)
            if len(waiting[bucket]) == SHARD:
                yield self._path(bucket, done[bucket]), sizes[bucket], waiting[bucket]
                waiting[bucket], done[bucket] = [], done[bucket] + 1
        for bucket, rows in enumerate(waiting):
            if rows:
                yield self._path(bucket, done[bucket]), sizes[bucket], rows

    def _encoded(
        self,
        source: ImageSource,
        encoders: LatentEncoders,
        target: tuple[int, int],
        rows: list[IndexRow],
        pool: ThreadPoolExecutor,
    ) -> dict[str, Tensor]:
        """The tensors of a shard. Raises UnboxError, naming it, for an image whose numbers are not finite."""

        def loaded(row: IndexRow) -> tuple[np.ndarray, bytes, tuple[int, ...]]:
            picture = source.picture(row.image)
            cut = Cut.of((picture.height, picture.width), target, self.crop, image_seed(self.seed, row.key))
            return cut.pixels(picture), source.digest(row.image), cut.sizes

        parts: dict[str, list[Tensor]] = {"latents": [], "context": [], "pooled": []}
        digests, sizes = [], []
        found = ahead(pool, loaded, rows)
        for start in range(0, len(rows), ENCODED):
            some = rows[start : start + ENCODED]
            pixels, told, cuts = zip(*(next(found) for _ in some), strict=True)
            context, pooled = encoders.texts([row.caption for row in some])
            for name, part in (
                ("latents", encoders.latents(pixels)),
                ("context", context),
                ("pooled", pooled),
            ):
                bad = [row.key for row, one in zip(some, part, strict=True) if not one.isfinite().all()]
                if bad:
                    raise UnboxError(
                        f"{bad[0]}: its {name} in float16 hold NaN or infinity; load the model in float32 "
                        "(--dtype float32), or take the image out"
                    )
                parts[name].append(part)
            digests += [list(each) for each in told]
            sizes += list(cuts)
        return {name: torch.cat(part) for name, part in parts.items()} | {
            "sizes": torch.tensor(sizes, dtype=torch.int32),
            "digests": torch.tensor(digests, dtype=torch.uint8),
        }

    def _digests(self) -> Callable[[int], bytes | None]:
        """The digest kept of the image of a number in the index, None where its shard is not there."""
        places: list[tuple[int, int]] = []
        done, rows = [0] * len(self.buckets.sizes), self.index.rows()

        def digest(number: int) -> bytes | None:
            while len(places) <= number:
                row = next(rows)
                bucket = self.buckets.nearest(row.height, row.width)
                places.append((bucket, done[bucket]))
                done[bucket] += 1
            bucket, place = places[number]
            path = self._path(bucket, place // SHARD)
            if not path.is_file():
                return None
            kept = self._shard(path).get_slice("digests")[place % SHARD : place % SHARD + 1]
            return bytes(kept[0].tolist())

        return digest


def ahead(
    pool: ThreadPoolExecutor, load: "Callable[[IndexRow], Any]", rows: Iterable[IndexRow]
) -> Iterator[Any]:
    """What `load` gives for each row, in their order, `AHEAD` of them in work at a time."""
    waiting: deque[Future[Any]] = deque()
    for row in rows:
        waiting.append(pool.submit(load, row))
        if len(waiting) >= AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def example_bytes(latent: tuple[int, int, int], text: tuple[int, int, int]) -> int:
    """Bytes of one example on disk: `latent` (channels, h, w), `text` (tokens, width, pooled width)."""
    channels, height, width = latent
    tokens, states, pooled = text
    return 2 * (channels * height * width + tokens * states + pooled) + 6 * 4 + 16
