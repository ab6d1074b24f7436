"""Small pictures on disk, for the tests of data."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, height: int = 64, width: int = 64) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def png(seed: int, height: int = 64, width: int = 64) -> bytes:
    file = io.BytesIO()
    picture(seed, height, width).save(file, "PNG")
    return file.getvalue()


def folder_of(place: Path, captions: dict[str, str], sides: tuple[int, int] = (64, 64)) -> Path:
    """A folder of pictures, each with its caption beside it."""
    place.mkdir(parents=True, exist_ok=True)
    for seed, (name, caption) in enumerate(captions.items()):
        path = place / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(seed, *sides))
        path.with_suffix(".txt").write_text(caption)
    return place


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
