"""Images that say how they were made: a JSON record in a PNG's text chunk."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from activation_store.files import write_bytes
from unbox.errors import UnboxError
from unbox.picture_file import opened
from unbox.text_files import parse_json_text

#: Keyword of the PNG text chunk.
KEYWORD = "unbox"


def save_png(image: Image.Image, path: str | Path, record: Mapping[str, object]) -> Path:
    """Write `image` with `record` (JSON values: system, prompt, seed, edits, ...), whole or not at all."""
    path = png_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, png_bytes(image, record))
    return path


def png_bytes(image: Image.Image, record: Mapping[str, object]) -> bytes:
    """A PNG's file that carries `record`."""
    chunk = PngImagePlugin.PngInfo()
    chunk.add_itxt(KEYWORD, json.dumps(record, allow_nan=False, ensure_ascii=False))
    data = io.BytesIO()
    image.save(data, format="PNG", pnginfo=chunk)
    return data.getvalue()


def png_path(path: str | Path) -> Path:
    """The path, if it names a PNG. Raises UnboxError otherwise: other formats cannot hold the record."""
    if Path(path).suffix.lower() != ".png":
        raise UnboxError(f"{path} cannot hold the record of an image; images are written as .png")
    return Path(path)


def read_png(path: str | Path) -> dict[str, Any]:
    """The record of a PNG written by `save_png`. Raises UnboxError for no PNG, a damaged one, one without."""
    with opened(path, ("PNG",)) as image:
        text = getattr(image, "text", {}).get(KEYWORD)
    if text is None:
        raise UnboxError(f"{path} holds no record of how it was made")
    record = parse_json_text(text, f"the record in {path}")
    if not isinstance(record, dict):
        raise UnboxError(f"the record in {path} is not a JSON object")
    return record


def holds(path: Path, record: Mapping[str, object], overwrite: bool = False) -> bool:
    """Whether the PNG at `path` is there and is what `record` asks for. Raises UnboxError where another
    picture is in its place, saying what differs, unless it is to be overwritten."""
    if not path.exists():
        return False
    try:
        there = read_png(path)
    except UnboxError:
        difference = "something else than an image of unbox"
    else:
        wanted = json.loads(json.dumps(record))
        names = [name for name in {**wanted, **there} if there.get(name) != wanted.get(name)]
        if not names:
            return True
        was, now = (str(each.get(names[0]))[:80] for each in (there, wanted))
        difference = f"an image of another {names[0].replace('_', ' ')} ({was}, not {now})"
    if not overwrite:
        raise UnboxError(f"{path} holds {difference}: give another --out, or --overwrite")
    return False
