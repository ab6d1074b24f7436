"""Folders of images with captions, as diffusers and kohya's scripts read them.

A caption stands in a file of the same name beside the image (`.txt` or `.caption`), or in a table of the
folder: `metadata.jsonl`, `metadata.csv` or `metadata.parquet` with a column `file_name` (Hugging Face's
imagefolder).
"""

import mimetypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unbox.capture.prompt_reader import read_prompts
from unbox.errors import UnboxError
from unbox.picture_file import opened
from unbox.text_files import read_text
from unbox.training.data.captioned_image import (
    LONGEST_CAPTION,
    CaptionedImage,
    EncodedImages,
    checked_caption,
    upright_sides,
)

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm")
CAPTIONS = (".txt", ".caption")
TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


@dataclass(frozen=True)
class ImageFolder(EncodedImages):
    """The images of a folder and of those in it. `caption`: of images that have none of their own; `column`:
    of the caption in tables."""

    folder: Path
    caption: str | None = None
    column: str | None = None

    def images(self) -> Iterator[CaptionedImage]:
        """In the order of their paths; memory holds one folder's names and the captions of tables.

        Raises UnboxError, naming it, for an image without a caption or with two, an image in a format that is
        not read, and a row of a table whose file is not there.
        """
        found, told = 0, dict[str, str]()
        for place, folders, files in os.walk(self.folder, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            told |= self._table(Path(place), files)
            captions = {Path(name).with_suffix("") for name in files if name.lower().endswith(CAPTIONS)}
            for name in sorted(files):
                if name.startswith(".") or not _is_image(Path(place, name)):
                    continue
                path = Path(place, name)
                stat = path.stat()
                caption = self._caption(path, told, Path(name).with_suffix("") in captions)
                key = str(path.relative_to(self.folder))
                yield CaptionedImage(key, caption, stat.st_size, stat.st_mtime_ns)
                found += 1
        if not found:
            raise UnboxError(f"there are no images in {self.folder}")

    def encoded(self, image: CaptionedImage) -> bytes:
        """The file's bytes."""
        return (self.folder / image.key).read_bytes()

    def name(self, image: CaptionedImage) -> str:
        """Its path."""
        return str(self.folder / image.key)

    def sides(self, image: CaptionedImage) -> tuple[int, int]:
        """From the header alone, without reading the rest."""
        with opened(self.folder / image.key) as found:
            return upright_sides(found)

    def _table(self, place: Path, files: list[str]) -> dict[str, str]:
        """Captions by file name, of the table in a folder."""
        tables = [name for name in TABLES if name in files]
        if len(tables) > 1:
            raise UnboxError(f"{place} has {' and '.join(tables)}: leave one of them")
        if not tables:
            return {}
        told: dict[str, str] = {}
        for row in read_prompts(str(place / tables[0]), column=self.column, facts=["file_name"]):
            name = row.meta["file_name"]
            if not isinstance(name, str) or not (place / name).is_file():
                raise UnboxError(f"{place / tables[0]} names {str(name)[:80]!r}, which is not in the folder")
            told[str(place / name)] = row.text
        return told

    def _caption(self, path: Path, told: dict[str, str], beside: bool) -> str:
        """The caption of an image: its folder's table's, of the file beside it, or the one for all others."""
        own = told.get(str(path))
        if not beside:
            if own is None and self.caption is None:
                raise UnboxError(
                    f"{path} has no caption: write {path.with_suffix('.txt').name} beside it, a "
                    "metadata.jsonl, or give one for all that have none (--caption)"
                )
            return checked_caption(own if own is not None else self.caption, str(path))
        there = [path.with_suffix(suffix) for suffix in CAPTIONS if path.with_suffix(suffix).is_file()]
        names = [each.name for each in there] + ["the folder's metadata"] * (own is not None)
        if len(names) > 1:
            raise UnboxError(f"{path} has two captions, in {' and '.join(names)}: leave one")
        return checked_caption(read_text(there[0], 4 * LONGEST_CAPTION), str(there[0]))


def _is_image(path: Path) -> bool:
    """Whether a file is an image by its name. Raises UnboxError for formats of images that are not read."""
    if path.suffix.lower() in IMAGES:
        return True
    if (mimetypes.guess_type(path.name)[0] or "").startswith("image/"):
        raise UnboxError(f"{path} is an image of a kind that is not read; there are {', '.join(IMAGES)}")
    return False
