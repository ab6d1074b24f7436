"""The thumbnails of an atlas in one file: half a million small files are slow to write, copy and delete."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from activation_store import publish_file
from activation_store.new_hdf5 import new_hdf5
from unbox.errors import UnboxError

#: Bytes of a chunk, which a thumbnail is read by, and those gathered before they are written.
CHUNK, GATHERED = 1 << 16, 1 << 22


class StoredThumbnail(NamedTuple):
    """A thumbnail in the file: read as a `Path` is."""

    path: Path
    start: int
    stop: int
    suffix: str = ".webp"

    def read_bytes(self) -> bytes:
        """The picture's file. Raises OSError where the file cannot be read."""
        with h5py.File(self.path, locking=False) as file:
            return bytes(file["bytes"][self.start : self.stop].tobytes())


@dataclass(frozen=True)
class ThumbnailFile:
    """Which images have a thumbnail, and where it lies."""

    path: Path
    image: np.ndarray
    """(m,) int64, ascending."""
    end: np.ndarray
    """(m,) int64 ends of their bytes; each begins where the one before ends."""

    @classmethod
    def open(cls, path: Path) -> "ThumbnailFile":
        """Read where they lie. Raises UnboxError for a file that is damaged."""
        try:
            with h5py.File(path, locking=False) as file:
                image, end, size = file["image"][()], file["end"][()], len(file["bytes"])
        except (OSError, KeyError) as error:
            raise UnboxError(f"{path} is damaged ({error}): build the atlas again") from error
        whole = len(image) == len(end) and (np.diff(image) > 0).all() and (np.diff(end) >= 0).all()
        if not whole or size != (end[-1] if len(end) else 0):
            raise UnboxError(f"{path} is damaged: build the atlas again")
        return cls(path, image, end)

    def find(self, image: int) -> StoredThumbnail | None:
        """The thumbnail of an image, None where there is none."""
        at = int(np.searchsorted(self.image, image))
        if at == len(self.image) or self.image[at] != image:
            return None
        return StoredThumbnail(self.path, int(self.end[at - 1]) if at else 0, int(self.end[at]))


def write_thumbnail_file(path: Path, pictures: Iterable[tuple[int, bytes]]) -> None:
    """Write (image, bytes of a picture's file), images ascending; whole or not at all. A few megabytes are
    held at a time."""
    images, ends = [], []
    with publish_file(path) as temporary, new_hdf5(temporary) as file:
        target = file.create_dataset("bytes", (0,), np.uint8, chunks=(CHUNK,), maxshape=(None,),
                                     fletcher32=True, track_times=False)  # fmt: skip
        for part in _gathered(pictures):
            begin = len(target)
            target.resize((begin + sum(len(data) for _, data in part),))
            target[begin:] = np.frombuffer(b"".join(data for _, data in part), np.uint8)
            for image, data in part:
                images.append(image)
                begin += len(data)
                ends.append(begin)
        for name, values in (("image", images), ("end", ends)):
            file.create_dataset(name, data=np.array(values, np.int64), track_times=False)


def _gathered(pictures: Iterable[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    part: list[tuple[int, bytes]] = []
    size = 0
    for image, data in pictures:
        part.append((image, data))
        size += len(data)
        if size >= GATHERED:
            yield part
            part, size = [], 0
    if part:
        yield part
