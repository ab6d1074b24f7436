"""WebDataset: tar files in which the files of one sample share the name before the first dot.

On this machine or at URLs of fsspec (`s3://`, `gs://`, `https://`); read in place, never unpacked. Listing
reads every header, so at a URL it costs one pass over the bytes between them.
"""

import glob
import re
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO

import fsspec
from fsspec.core import url_to_fs

from activation_store.remote_store import is_url
from unbox.errors import UnboxError
from unbox.text_files import parse_json_text
from unbox.training.data.captioned_image import (
    CAPTION_COLUMNS,
    LONGEST_CAPTION,
    CaptionedImage,
    EncodedImages,
    checked_caption,
)
from unbox.training.data.image_folders import CAPTIONS, IMAGES

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
#: Tars that one name may stand for.
MOST_TARS = 100_000


def tar_places(name: str) -> list[str]:
    """The tars that a name means: one, a `{0000..0099}` of them, or those that a `*` finds, sorted.

    Raises UnboxError where there is none, or a range goes backwards.
    """
    if found := _RANGE.search(name):
        first, last = int(found[1]), int(found[2])
        if not 0 <= last - first < MOST_TARS:
            raise UnboxError(f"{name}: the range {found[0]} should go up, over at most {MOST_TARS:,} tars")
        width = len(found[1])
        return [
            place
            for number in range(first, last + 1)
            for place in tar_places(f"{name[: found.start()]}{number:0{width}}{name[found.end() :]}")
        ]
    if "*" not in name:
        return [name]
    if is_url(name):
        system, path = url_to_fs(name)
        places = sorted(system.unstrip_protocol(place) for place in system.glob(path))
    else:
        places = sorted(glob.glob(name))
    if not places:
        raise UnboxError(f"there is no tar at {name}")
    return places


@dataclass(frozen=True)
class WebDatasetTars(EncodedImages):
    """The samples of tars, in their order. `caption`: of samples that have none; `column`: the key of the
    caption in a sample's `.json`, which is then read in the place of its `.txt`."""

    places: tuple[str, ...]
    caption: str | None = None
    column: str | None = None

    def images(self) -> Iterator[CaptionedImage]:
        """Each sample's image. Raises UnboxError, naming tar and sample, for one without an image or a
        caption, or with two images, and for what is no tar or is compressed."""
        for number, place in enumerate(self.places):
            stamp = _stamp(place)
            with _opened_tar(place) as (tar, file):
                members = (member for member in tar if member.isfile())
                for key, group in groupby(members, key=lambda member: _split(member.name)[0]):
                    parts = {_split(member.name)[1]: member for member in group}
                    where = f"{key} in {place}"
                    image = self._image(parts, where)
                    caption = self._caption(parts, file, where)
                    at = (number, image.offset_data, image.size)
                    yield CaptionedImage(f"{_base(place)}/{key}", caption, image.size, stamp, at)

    def encoded(self, image: CaptionedImage) -> bytes:
        """The bytes of the image, from its place in the tar."""
        number, offset, size = image.place
        place = self.places[number]
        if is_url(place):
            system, path = url_to_fs(place)
            found: bytes = system.cat_file(path, offset, offset + size)
            return found
        with open(place, "rb") as file:
            file.seek(offset)
            return file.read(size)

    def _image(self, parts: dict[str, tarfile.TarInfo], where: str) -> tarfile.TarInfo:
        found = [member for suffix, member in parts.items() if f".{suffix}" in IMAGES]
        if len(found) != 1:
            raise UnboxError(f"{where} has {'no image' if not found else 'two images'}: {', '.join(parts)}")
        return found[0]

    def _caption(self, parts: dict[str, tarfile.TarInfo], file: IO[bytes], where: str) -> str:
        for suffix in (each.removeprefix(".") for each in CAPTIONS):
            if suffix in parts and self.column is None:
                return checked_caption(_text(file, parts[suffix], where), where)
        if "json" in parts:
            told = parse_json_text(_text(file, parts["json"], where), where)
            names = CAPTION_COLUMNS if self.column is None else (self.column,)
            if isinstance(told, dict) and (name := next((n for n in names if n in told), None)):
                return checked_caption(told[name], where)
        if self.caption is None:
            raise UnboxError(f"{where} has no caption: a .txt, or a .json with {', '.join(CAPTION_COLUMNS)}")
        return checked_caption(self.caption, where)


def _split(name: str) -> tuple[str, str]:
    """The sample's key (folders and all before the first dot of the base) and the rest, in lower case."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def _text(file: IO[bytes], member: tarfile.TarInfo, where: str) -> str:
    if member.size > 64 * LONGEST_CAPTION:
        raise UnboxError(f"{where}: {member.name} has {member.size:,} bytes, which is no caption")
    file.seek(member.offset_data)
    try:
        return file.read(member.size).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnboxError(f"{where}: {member.name} is not in UTF-8") from None


@contextmanager
def _opened_tar(place: str) -> Iterator[tuple[tarfile.TarFile, IO[bytes]]]:
    """A tar and a second handle on its bytes, for what lies at a place."""
    try:
        with _bytes_of(place) as file, _bytes_of(place) as beside:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                yield tar, beside
    except tarfile.TarError as error:
        raise UnboxError(
            f"{place} is not a tar that can be read in place ({error}): a compressed one is to be unpacked, "
            "one that is cut off to be fetched again"
        ) from None


def _bytes_of(place: str) -> AbstractContextManager[IO[bytes]]:
    """A file here or at a URL, to be read."""
    if not is_url(place):
        return open(place, "rb")
    opened: AbstractContextManager[IO[bytes]] = fsspec.open(place, "rb")
    return opened


def _stamp(place: str) -> int:
    """A number that changes with the tar."""
    if not is_url(place):
        return Path(place).stat().st_mtime_ns
    system, path = url_to_fs(place)
    info = system.info(path)
    told = str(info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("mtime") or "")
    return int.from_bytes(f"{info.get('size')} {told}".encode()[-7:], "big")


def _base(place: str) -> str:
    return place.rpartition("/")[2]
