"""From what a user names to the images that it means."""

from pathlib import Path
from typing import cast, get_args

from activation_store.remote_store import is_url
from unbox.errors import UnboxError
from unbox.shapes.scene import Split
from unbox.training.data.captioned_image import ImageSource
from unbox.training.data.hub_images import HubImages
from unbox.training.data.image_folders import ImageFolder
from unbox.training.data.shapes_images import ShapesImages
from unbox.training.data.webdataset_tars import WebDatasetTars, tar_places


def open_images(
    data: str,
    side: int,
    *,
    limit: int | None = None,
    seed: int = 0,
    split: str | None = None,
    caption: str | None = None,
    column: str | None = None,
    changed: bool = False,
) -> ImageSource:
    """The images that `data` names: `shapes` (`limit` scenes of a `seed` and `split`, drawn at `side`
    pixels), `hub:NAME` (a `split`), a folder of images or of tars, a tar, several as `x-{000..099}.tar` or
    `x-*.tar`, here or at a URL.

    `caption`: of images that have none; `column`: where captions stand in tables; `limit`: of shapes alone,
    other images have an end; `changed`: of shapes, each scene with one factor changed. Raises UnboxError for
    what is not there, and for options that would do nothing.
    """
    if data == "shapes":
        _refuse("is not for shapes, whose captions are of its scenes", caption=caption, caption_column=column)
        if limit is None:
            raise UnboxError("the scenes of shapes have no end: say how many with --limit")
        if (split or "train") not in get_args(Split):
            raise UnboxError(f"the Shapes world has the splits {', '.join(get_args(Split))}; not '{split}'")
        return ShapesImages(limit, side, seed, cast(Split, split or "train"), changed)
    _refuse("is for --data shapes: other images come as they are", data_seed=seed or None)
    if data.startswith("hub:"):
        return HubImages(data.removeprefix("hub:"), split or "train", caption, column)
    _refuse(f"is not for {data}, which has no splits", split=split)
    place = Path(data)
    if is_url(data) or "*" in data or "{" in data or data.endswith(".tar"):
        places = tar_places(data)
        if missing := next((p for p in places if not is_url(p) and not Path(p).is_file()), None):
            raise UnboxError(f"there is no tar at {missing}")
        return WebDatasetTars(tuple(places), caption, column)
    if not place.is_dir():
        raise UnboxError(
            f"there are no images at {data}: give a folder, tars (x-{{000..099}}.tar), hub:NAME, or shapes"
        )
    if tars := sorted(str(path) for path in place.glob("*.tar")):
        return WebDatasetTars(tuple(tars), caption, column)
    return ImageFolder(place, caption, column)


def _refuse(reason: str, **options: str | int | None) -> None:
    """Raise UnboxError for the first option that is given."""
    for name, value in options.items():
        if value is not None:
            raise UnboxError(f"--{name.replace('_', '-')} {reason}")
