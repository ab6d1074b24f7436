"""Images of a data set that `datasets` loads: of the Hub, or of a folder (Parquet, imagefolder, ...)."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from unbox.errors import UnboxError
from unbox.training.data.captioned_image import (
    CAPTION_COLUMNS,
    CaptionedImage,
    EncodedImages,
    checked_caption,
)

if TYPE_CHECKING:
    from datasets import Dataset

#: Captions that are read at once.
_AT_ONCE = 1024


@dataclass(frozen=True)
class HubImages(EncodedImages):
    """`source`: NAME, NAME:CONFIG or NAME@REVISION:CONFIG of a data set, or a folder's path; its files are
    fetched whole into the libraries' own cache, where pictures stay encoded on the disk."""

    source: str
    split: str = "train"
    caption: str | None = None
    column: str | None = None

    def images(self) -> Iterator[CaptionedImage]:
        """Row by row; only the captions are read."""
        rows = self._rows
        stamp = int.from_bytes(hashlib.sha256(str(rows._fingerprint).encode()).digest()[:7], "big")
        if not len(rows):
            raise UnboxError(f"there are no images in {self.source} (split {self.split})")
        name = self._caption_column
        for start in range(0, len(rows), _AT_ONCE):
            stop = min(start + _AT_ONCE, len(rows))
            captions = rows[start:stop][name] if name is not None else [None] * (stop - start)
            for number, text in enumerate(captions, start):
                where = f"row {number + 1} of {self.source}"
                told = text if text is not None and str(text).strip() else self.caption
                yield CaptionedImage(f"row {number + 1}", checked_caption(told, where), 0, stamp, (number,))

    def encoded(self, image: CaptionedImage) -> bytes:
        """The bytes in the row, or of the file that it names."""
        found = self._pictures[image.place[0]][self._image_column]
        if not isinstance(found, dict) or not (found.get("bytes") or found.get("path")):
            raise UnboxError(f"{self.name(image)} holds no image")
        data: bytes | None = found.get("bytes")
        return data if data is not None else Path(found["path"]).read_bytes()

    def name(self, image: CaptionedImage) -> str:
        """Row and data set."""
        return f"{image.key} of {self.source}"

    @cached_property
    def _rows(self) -> "Dataset":
        try:
            from datasets import load_dataset
        except ImportError:
            raise UnboxError(f"reading hub:{self.source} needs datasets: pip install 'unbox[data]'") from None
        place, _, config = self.source.partition(":")
        name, _, revision = place.partition("@")
        try:
            found = load_dataset(name, config or None, revision=revision or None, split=self.split)
            kinds = {key: type(kind).__name__ for key, kind in found.features.items()}
            for key in (key for key, kind in kinds.items() if kind == "Image"):
                found = found.cast_column(key, type(found.features[key])(decode=False))
            return found
        except (OSError, ValueError) as error:
            raise UnboxError(
                f"the data set {self.source} (split {self.split}) cannot be read: {error}"
            ) from error

    @cached_property
    def _pictures(self) -> "Dataset":
        return self._rows.select_columns([self._image_column])

    @property
    def _image_column(self) -> str:
        found = [name for name, kind in self._rows.features.items() if type(kind).__name__ == "Image"]
        if len(found) != 1:
            raise UnboxError(
                f"{self.source} has {len(found)} columns of images ({', '.join(self._rows.features)}): "
                "one is needed"
            )
        return found[0]

    @cached_property
    def _caption_column(self) -> str | None:
        """The column of the captions; None: there is none, and all have the one that was given."""
        there = list(self._rows.features)
        names = CAPTION_COLUMNS if self.column is None else (self.column,)
        if found := next((name for name in names if name in there), None):
            return found
        if self.column is None and self.caption is not None:
            return None
        raise UnboxError(
            f"{self.source} has no column {' or '.join(names)}; it has {', '.join(there)}: choose one with "
            "--caption-column"
        )
