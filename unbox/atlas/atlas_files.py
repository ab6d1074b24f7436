"""The files of an atlas: the HDF5 of each SAE, the relations, the embeddings, the thumbnails, the index.

out/atlas.json                    written last: names the folder of data
out/data-<digest>/000.h5 ...      an SAE's statistics, examples and relations, a row a feature
out/data-<digest>/000.places.h5   which features are active at sampled places; gone when all are related
out/data-<digest>/relations.h5    related features of other blocks
out/data-<digest>/meaning.h5      embeddings of the features' captions
out/data-<digest>/atlas.sqlite    see `database`
out/data-<digest>/thumbnails.h5   the images that any feature shows; versions before: a folder of files
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm.auto import tqdm

from activation_store import Store, publish_file
from activation_store.files import canonical, parse_json
from activation_store.new_hdf5 import new_hdf5
from unbox.atlas.atlas_plan import AtlasPlan
from unbox.atlas.caption_labels import CaptionLabel, Word
from unbox.atlas.encode_pass import Gathered
from unbox.atlas.feature_records import SAEInfo, Stored
from unbox.atlas.feature_statistics import PLACES
from unbox.atlas.relations import RelatedArrays
from unbox.atlas.thumbnail_file import write_thumbnail_file
from unbox.errors import FieldError, UnboxError
from unbox.picture_file import opened
from unbox.text_files import read_json_object
from unbox.validation import (
    Index,
    JSONObject,
    Name,
    Several,
    StepIndex,
    Text,
    behind,
    parsed,
    validated,
)

FORMAT, VERSION = "unbox atlas", 1
INDEX, DATABASE, RELATIONS, MEANING, THUMBNAILS = (
    "atlas.json", "atlas.sqlite", "relations.h5", "meaning.h5", "thumbnails.h5",
)  # fmt: skip
#: The folder of thumbnails of an atlas of a version before.
FORMER_THUMBNAILS = "thumbnails"
#: Bytes of a chunk of HDF5 to aim at: a page reads a row.
CHUNK_BYTES = 1 << 16


def current(out: Path) -> str | None:
    """Name of the data folder of the atlas that is at `out`, if one is."""
    return str(read_index(out)["data"]) if (out / INDEX).is_file() else None


def read_index(folder: Path) -> dict[str, Any]:
    """The index of the atlas in a folder. UnboxError where there is none, it is newer, or not whole."""
    if not (folder / INDEX).is_file():
        raise UnboxError(f"there is no atlas at {folder}; `unbox atlas` builds one")
    index = read_json_object(folder / INDEX)
    if index.get("format") != FORMAT or index.get("version") != VERSION:
        raise UnboxError(f"{folder} is not an atlas of version {VERSION}: build it again with `unbox atlas`")
    found = parsed(AtlasIndex, index, str(folder / INDEX))
    if not (folder / found.data / DATABASE).is_file():
        raise UnboxError(f"the atlas at {folder} is not whole: build it again with `unbox atlas`")
    return index


@validated
class AtlasStore:
    """What `atlas.json` says of the store."""

    digest: Stored
    images: Index
    steps: Several[StepIndex]
    branches: Several[Text]
    provenance: JSONObject


@validated
class AtlasIndex:
    """`atlas.json`."""

    format: Stored
    version: Index
    data: Name
    store: JSONObject
    plan: JSONObject
    encoders: Stored | None
    saes: Several[JSONObject]
    identities: JSONObject = field(default_factory=dict)
    """Of the SAEs by name; none in an atlas of a version before."""

    def __post_init__(self) -> None:
        parsed(AtlasStore, self.store, "store")
        parsed(AtlasPlan, self.plan, "plan")
        for number, sae in enumerate(self.saes):
            parsed(SAEInfo, sae, f"saes[{number}]")
        if not self.saes:
            raise FieldError("", "saes", (), "should hold at least one")
        names = [sae["name"] for sae in self.saes]
        if self.identities and not all(isinstance(self.identities.get(name), str) for name in names):
            raise FieldError("", "identities", self.identities, f"should be those of {', '.join(names)}")


def sae_file(folder: Path, number: int) -> Path:
    """The file of an atlas's SAE."""
    return folder / f"{number:03d}.h5"


def write_sae(
    file: Path,
    found: Gathered,
    plan: AtlasPlan,
    decoys: np.ndarray,
    labels: Sequence[CaptionLabel],
    related: Mapping[str, RelatedArrays],
    name_scores: np.ndarray,
) -> None:
    """Write what is known of an SAE's features, and beside it which are active at sampled places."""
    with writing(places_file(file)) as target:
        target.attrs["places"] = found.place_rows
        target.attrs["full_grid"] = found.grid.kept == found.grid.height * found.grid.width
        write_arrays(target, dict(zip(PLACES, found.tally.places.pairs, strict=True)))
    with writing(file) as target:
        target.attrs["map_shape"] = found.grid.map_shape
        write_arrays(target, _arrays(found, plan, decoys))
        # Labels are one JSON text: they are read once, into the database.
        text = np.frombuffer(canonical([asdict(label) for label in labels]), np.uint8)
        target.create_dataset("labels", data=text, fletcher32=True, chunks=True)
        if len(name_scores):
            write_arrays(target, {"name_scores": name_scores})
        for kind, arrays in related.items():
            write_arrays(target, {f"{kind}/{part}": array for part, array in arrays._asdict().items()})


def _arrays(found: Gathered, plan: AtlasPlan, decoys: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a pass, named as in the file; every array has a row per latent."""
    tally, latents = found.tally, found.tally.latents
    left_out = ("images", "probe_peak", *PLACES)
    arrays = {name: array for name, array in tally.arrays().items() if name not in left_out}
    arrays |= {"scale": found.scale, "decoys/image": decoys}
    for kind in ("top", "random", "intervals", "captions"):
        best = getattr(found.examples, kind)
        for name in ("image", "peak", "maps")[: 2 if kind == "captions" else 3]:
            array = getattr(best, name)
            if kind == "intervals":  # those of a feature stand in its row, one after the other
                array = array.reshape(latents, plan.intervals * plan.per_interval, *array.shape[2:])
            arrays[f"{kind}/{name}"] = array
    return arrays


def write_arrays(target: h5py.Group, arrays: Mapping[str, np.ndarray]) -> None:
    """Datasets with checksums, in chunks of whole rows; deflated, for maps are mostly zeros."""
    for name, array in arrays.items():
        if array.size == 0:
            target.create_dataset(name, data=array, track_times=False)
            continue
        row = max(1, array.nbytes // len(array))
        chunk = (min(len(array), max(1, CHUNK_BYTES // row)), *array.shape[1:])
        options = {"fletcher32": True, "track_times": False, "compression": "gzip", "compression_opts": 3}
        target.create_dataset(name, data=array, chunks=chunk, **options)


@contextmanager
def writing(path: Path) -> Iterator[h5py.File]:
    """A new file, whole or not at all."""
    with publish_file(path) as temporary, new_hdf5(temporary) as target:
        yield target


def read_labels(file: h5py.File) -> list[CaptionLabel]:
    """The labels of an SAE's file."""
    rows = parse_json(file["labels"][()].tobytes(), "labels of the atlas")
    return [CaptionLabel(**{**row, "words": tuple(Word(**word) for word in row["words"])}) for row in rows]


def read_name_scores(file: h5py.File) -> list[float | None]:
    """How well the names of directions foretell where they fire; none of other SAEs."""
    found = file["name_scores"][()].tolist() if "name_scores" in file else []
    return [None if np.isnan(each) else each for each in found]


def read_places(folder: Path, number: int) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """Rows and features of an SAE's active places, the number of places, whether whole grids were kept."""
    with h5py.File(places_file(sae_file(folder, number))) as file:
        rows, features = (file[name][()] for name in PLACES)
        return rows, features, int(file.attrs["places"]), bool(file.attrs["full_grid"])


def places_file(file: Path) -> Path:
    """Where the active places of an SAE are, which only relating needs; `file`: that of the SAE."""
    return file.with_suffix(".places.h5")


def top_images(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Top images and peaks of every feature of `count` SAEs, in order of ids."""
    images, peaks = [], []
    for number in range(count):
        with h5py.File(sae_file(folder, number)) as file:
            images.append(file["top/image"][()])
            peaks.append(file["top/peak"][()])
    return np.concatenate(images), np.concatenate(peaks)


def thumbnail_path(image: int) -> Path:
    """Where an image's thumbnail is, inside the folder of thumbnails of a version before."""
    return Path(f"{image // 1000:06d}") / f"{image:09d}.webp"


def write_thumbnails(folder: Path, store: Store, count: int, progress: bool) -> None:
    """The thumbnails of all images that any feature of `count` SAEs shows. A store may have none."""
    shown: set[int] = set()
    for number in range(count):
        with h5py.File(sae_file(folder, number)) as file:
            for kind in ("top", "random", "intervals", "decoys"):
                shown |= set(np.unique(file[f"{kind}/image"][()]).tolist())
    some = tqdm(sorted(shown - {-1}), desc="thumbnails", disable=not progress)
    write_thumbnail_file(folder / THUMBNAILS, _pictures(store, some))


def _pictures(store: Store, images: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    """Those that have a thumbnail, with it: a picture that can be read, for browsers are given it."""
    for image in images:
        if not (data := store.thumbnail_or_empty(image)):
            continue
        with behind(f"a thumbnail of the store, of image {image}"):
            with opened(data, ("WEBP", "PNG", "JPEG")) as picture:
                picture.verify()
        yield image, data
