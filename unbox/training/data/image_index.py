"""The list of a training set's images on disk: what a cache is of, a line each, read as a stream."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

from activation_store.files import publish_file
from unbox.errors import UnboxError
from unbox.text_files import lines_of, parse_json_text
from unbox.training.data.captioned_image import CaptionedImage, ImageSource
from unbox.validation import Count, Index, JSONObject, Several, Text, Whole, parsed, validated

#: The digest kept of the image of a number in the index; None where there is none yet.
DigestOf = Callable[[int], bytes | None]


@validated
class IndexRow:
    """A line of the index: an image, its caption, and its size in pixels."""

    key: Text
    caption: Text
    size: Index
    stamp: Whole
    height: Count
    width: Count
    place: Several[Index] = ()

    @property
    def image(self) -> CaptionedImage:
        """As its source lists it."""
        return CaptionedImage(self.key, self.caption, self.size, self.stamp, self.place)

    def to_json(self) -> JSONObject:
        return {**vars(self), "place": list(self.place)}


@dataclass(frozen=True)
class ImageIndex:
    """The file of lines."""

    path: Path

    def write(self, source: ImageSource, limit: int | None = None) -> None:
        """List a source, opening the header of each image. Whole or not at all; memory holds one line."""
        with publish_file(self.path) as temporary, open(temporary, "x", encoding="utf-8") as file:
            for image in islice(source.images(), limit):
                height, width = source.sides(image)
                row = IndexRow(image.key, image.caption, image.size, image.stamp, height, width, image.place)
                file.write(json.dumps(row.to_json(), ensure_ascii=False) + "\n")

    def rows(self) -> Iterator[IndexRow]:
        """Line by line. Raises UnboxError, naming the line, for one that is none of ours."""
        for number, line in enumerate(lines_of(self.path), 1):
            where = f"line {number} of {self.path}"
            yield parsed(IndexRow, parse_json_text(line, where), where)

    def check(self, source: ImageSource, limit: int | None, digests: DigestOf) -> None:
        """Raise UnboxError, naming the first, where the source has other images or captions now. An image
        with another time of change is read and compared with the digest that was kept of it."""
        listed = islice(source.images(), limit)
        for number, (row, image) in enumerate(zip_longest(self.rows(), listed)):
            found = self._differs(number, row, image, source, digests)
            if found is not None:
                raise UnboxError(
                    f"{self.path.parent} holds a cache of other images: {found}. Give what it was made of, "
                    "or another --cache"
                )

    def _differs(
        self,
        number: int,
        row: IndexRow | None,
        image: CaptionedImage | None,
        source: ImageSource,
        digests: DigestOf,
    ) -> str | None:
        """What is another at one place, in words; None: nothing."""
        if row is None:
            return f"{image.key if image else ''} is new"
        if image is None:
            return f"{row.key} is gone"
        if row.key != image.key:
            return f"where {row.key} was, there is {image.key}"
        if row.caption != image.caption:
            return f"the caption of {row.key} was {row.caption[:40]!r}, is {image.caption[:40]!r}"
        if (row.size, row.stamp) == (image.size, image.stamp):
            return None
        kept = digests(number)
        changed = row.size != image.size or (kept is not None and kept != source.digest(image))
        return f"{row.key} has changed" if changed else None
