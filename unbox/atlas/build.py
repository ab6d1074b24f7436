"""Building an atlas: one pass over the store for each SAE, then what relates them, then the database."""

import io
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from activation_store import publish_file, publish_folder, read_json, write_json
from activation_store.files import canonical, parse_json
from unbox.atlas import caption_labels, database, relations, text_embeddings
from unbox.atlas.atlas_plan import AtlasPlan
from unbox.atlas.encode_pass import Gathered, gather, pass_key
from unbox.errors import UnboxError
from unbox.result_cache import key_of
from unbox.sae.model import SAE

FORMAT, VERSION = "unbox atlas", 1
INDEX, DATABASE, RELATIONS, MEANING, THUMBNAILS = (
    "atlas.json", "atlas.sqlite", "relations.h5", "meaning.h5", "thumbnails",
)  # fmt: skip
#: Which features are active at sampled places: only `relate` reads it, and removes it.
PLACES = ("place_row", "place_feature")
#: Bytes of a chunk of HDF5 to aim at: a page reads a row.
CHUNK_BYTES = 1 << 16


def build(
    store: Any,
    saes: Mapping[str, SAE],
    out: str | os.PathLike,
    *,
    plan: AtlasPlan | None = None,
    model: Any = None,
    progress: bool = True,
) -> Path:
    """Build the atlas of `saes` (by name, as `load_saes` gives) on an activation store in the folder `out`.

    `model`: its text encoders embed the captions, for search by meaning; None leaves that out. Stopped at any
    moment, the same call goes on; the atlas that was there stays readable until the new one is whole. Labels
    by people and models are carried over from it where the SAE is the same. Memory: the tallies of one SAE at
    a time, about latents x (52 maps + 1024 probes x 2 bytes), with the default plan some 300 MB for 5120
    latents on 32x32 maps. Raises UnboxError when a block is not in the store.
    """
    plan, out = plan or AtlasPlan(), Path(out)
    check(store, saes)
    keys = {name: pass_key(sae, store[sae.block], plan) for name, sae in saes.items()}
    encoders = None if model is None else model.fingerprint["weights"]
    inputs = [VERSION, keys, encoders and {k: v for k, v in encoders.items() if "text" in k}]
    folder = out / f"data-{key_of(inputs, 16)}"
    if current(out) == folder.name:
        return out
    folder.mkdir(parents=True, exist_ok=True)
    captions = caption_labels.Captions.of([sample.prompt for sample in store.samples])
    for number, (name, sae) in enumerate(saes.items()):
        file = folder / f"{number:03d}.h5"
        if not file.exists():
            _one_sae(store, name, sae, plan, captions, file, progress)
    relate(folder, list(saes.values()), plan)
    if model is not None:
        _meanings(folder, store, len(saes), model, progress)
    _thumbnails(folder, store, len(saes), progress)
    _database(folder, store, saes, keys, previous=out)
    write_json(out / INDEX, _index(store, saes, keys, plan, folder.name, model))
    for old in out.glob("data-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    return out


def check(store: Any, saes: Mapping[str, SAE]) -> None:
    """Refuse SAEs that are not of the store's blocks."""
    if not len(store) or not saes:
        raise UnboxError("an atlas needs at least one image and one SAE")
    for name, sae in saes.items():
        if sae.block not in store.blocks:
            raise UnboxError(f"SAE {name} is of block '{sae.block}'; the store has {', '.join(store.blocks)}")
        if store[sae.block].width != sae.width:
            raise UnboxError(f"SAE {name} reads vectors of width {sae.width}, {sae.block} in the store has "
                             f"{store[sae.block].width}: they are of different models")  # fmt: skip


def current(out: Path) -> str | None:
    """Name of the data folder of the atlas that is at `out`, if one is."""
    return read_json(out / INDEX)["data"] if (out / INDEX).is_file() else None


def _one_sae(
    store: Any,
    name: str,
    sae: SAE,
    plan: AtlasPlan,
    captions: caption_labels.Captions,
    file: Path,
    progress: bool,
) -> None:
    rows, saved = store[sae.block], file.with_suffix(".npz")
    with tqdm(total=len(store), desc=name, unit="image", disable=not progress) as bar:
        found = gather(sae, rows, plan, saved, bar.update)
    tally, examples = found.tally, found.examples
    labels = caption_labels.label_features(
        captions, examples.captions.image, examples.captions.peak, found.scale, found.probes, tally.probe_peak
    )
    silent = caption_labels.decoys(
        captions, examples.captions.image[:, : plan.top], found.probes, tally.probe_peak, plan.decoys
    )
    own = relations.presence(tally.place_row, tally.place_feature, found.place_rows, sae.latents)
    near = relations.neighbours(sae.W_dec.detach().cpu().float().numpy(), plan.related)
    with publish_file(_places(file)) as temporary, h5py.File(temporary, "x") as target:
        target.attrs["places"] = found.place_rows
        target.attrs["full_grid"] = found.grid.kept == found.grid.height * found.grid.width
        write_arrays(target, {name: getattr(tally, name) for name in PLACES})
    with publish_file(file) as temporary, h5py.File(temporary, "x") as target:
        target.attrs["map_shape"] = found.grid.map_shape
        write_arrays(target, _arrays(found, plan, silent))
        write_labels(target, labels)
        for kind, related in (("neighbours", near), ("coactive", relations.together(own, own, plan.related))):
            write_arrays(target, {f"{kind}/{part}": array for part, array in related._asdict().items()})
    saved.unlink(missing_ok=True)


def _arrays(found: Gathered, plan: AtlasPlan, silent: np.ndarray) -> dict[str, np.ndarray]:
    """What is kept of a pass, named as in the file; every array has a row per latent."""
    tally, latents = found.tally, found.tally.latents
    arrays = {
        name: array
        for name, array in tally.arrays().items()
        if name not in ("images", "probe_peak", *PLACES)
    }  # fmt: skip
    arrays |= {"scale": found.scale, "decoys/image": silent}
    for kind in ("top", "random", "intervals", "captions"):
        best = getattr(found.examples, kind)
        parts = {"image": best.image, "peak": best.peak, "maps": best.maps}
        if kind == "captions":
            del parts["maps"]
        if kind == "intervals":
            parts = {
                name: array.reshape(latents, plan.intervals * plan.per_interval, *array.shape[2:])
                for name, array in parts.items()
            }
        arrays |= {f"{kind}/{name}": array for name, array in parts.items()}
    return arrays


def write_arrays(target: h5py.Group, arrays: Mapping[str, np.ndarray]) -> None:
    """Datasets with checksums, in chunks of whole rows; deflated, for maps are mostly zeros."""
    for name, array in arrays.items():
        if array.size == 0:
            target.create_dataset(name, data=array, track_times=False)
            continue
        row = max(1, array.nbytes // len(array))
        chunk = (min(len(array), max(1, CHUNK_BYTES // row)), *array.shape[1:])
        target.create_dataset(
            name,
            data=array,
            chunks=chunk,
            fletcher32=True,
            track_times=False,
            compression="gzip",
            compression_opts=3,
        )


def write_labels(target: h5py.Group, labels: Sequence[caption_labels.CaptionLabel]) -> None:
    """Labels as one JSON text: they are read once, into the database."""
    text = canonical([asdict(label) for label in labels])
    target.create_dataset("labels", data=np.frombuffer(text, np.uint8), fletcher32=True, chunks=True)


def _places(file: Path) -> Path:
    return file.with_suffix(".places.h5")


def relate(folder: Path, saes: Sequence[SAE], plan: AtlasPlan) -> None:
    """For every feature those of other blocks that are active in the same places: ids over all SAEs."""
    if (folder / RELATIONS).exists():
        return
    starts = np.cumsum([0, *(sae.latents for sae in saes)])
    found, full = [], []
    for number, sae in enumerate(saes):
        with h5py.File(_places(folder / f"{number:03d}.h5")) as file:
            rows, features = (file[name][()] for name in PLACES)
            found.append(relations.presence(rows, features, int(file.attrs["places"]), sae.latents))
            full.append(bool(file.attrs["full_grid"]))
    tables = []
    for number, sae in enumerate(saes):
        # Where positions are sampled, the places of two blocks are not the same places.
        others = [i for i, other in enumerate(saes) if other.block != sae.block and full[i] and full[number]]
        tables.append(_elsewhere(found, others, number, starts, plan))
    with publish_file(folder / RELATIONS) as temporary, h5py.File(temporary, "x") as target:
        for part in relations.RelatedArrays._fields:
            write_arrays(target, {part: np.concatenate([getattr(t, part) for t in tables])})
    for number in range(len(saes)):
        _places(folder / f"{number:03d}.h5").unlink()


def _elsewhere(
    found: list[Any], others: list[int], number: int, starts: np.ndarray, plan: AtlasPlan
) -> relations.RelatedArrays:
    """The most related features over several SAEs, the best of each SAE's best."""
    tables = [relations.together(found[number], found[i], plan.related) for i in others]
    rows = found[number].shape[1]
    empty = np.zeros((rows, plan.related), np.float32)
    index = [np.where(t.other >= 0, t.other + starts[i], -1) for i, t in zip(others, tables, strict=True)]
    joined = relations.RelatedArrays(
        np.concatenate([*index, np.full((rows, plan.related), -1, np.int64)], 1),
        np.concatenate([*(t.score for t in tables), empty], 1),
        np.concatenate([*(t.share for t in tables), empty], 1),
    )
    order = np.argsort(-joined.score, axis=1, kind="stable")[:, : plan.related]
    return relations.RelatedArrays(*(np.take_along_axis(part, order, 1) for part in joined))


def _meanings(folder: Path, store: Any, count: int, model: Any, progress: bool) -> None:
    if (folder / MEANING).exists():
        return
    images, peaks = _top_images(folder, count)
    used = np.unique(images[images >= 0])
    texts = sorted({store.samples[int(i)].prompt for i in used})
    number = {text: i for i, text in enumerate(texts)}
    step = 64
    parts = [
        text_embeddings.embed(model, texts[start : start + step])
        for start in tqdm(range(0, len(texts), step), desc="captions", disable=not progress)
    ]
    vectors = np.concatenate(parts)
    place = np.zeros(len(store), np.int64)
    place[used] = [number[store.samples[int(i)].prompt] for i in used]
    features, mean = text_embeddings.feature_vectors(vectors, np.where(images >= 0, place[images], -1), peaks)
    with publish_file(folder / MEANING) as temporary, h5py.File(temporary, "x") as target:
        write_arrays(target, {"features": features.astype(np.float32), "mean": mean[None]})


def _top_images(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Top images and peaks of every feature of every SAE, in order of ids."""
    images, peaks = [], []
    for number in range(count):
        with h5py.File(folder / f"{number:03d}.h5") as file:
            images.append(file["top/image"][()])
            peaks.append(file["top/peak"][()])
    return np.concatenate(images), np.concatenate(peaks)


def thumbnail_path(image: int) -> Path:
    """Where an image's thumbnail is, inside the folder of thumbnails."""
    return Path(f"{image // 1000:06d}") / f"{image:09d}.webp"


def _thumbnails(folder: Path, store: Any, count: int, progress: bool) -> None:
    """The thumbnails of all images that any feature shows, as files. A store may have none."""
    if (folder / THUMBNAILS).exists():
        return
    shown: set[int] = set()
    for number in range(count):
        with h5py.File(folder / f"{number:03d}.h5") as file:
            for kind in ("top", "random", "intervals", "decoys"):
                shown |= set(np.unique(file[f"{kind}/image"][()]).tolist())
    with publish_folder(folder / THUMBNAILS) as target:
        for image in tqdm(sorted(shown - {-1}), desc="thumbnails", disable=not progress):
            data = store.thumbnail_or_empty(image)
            if data:
                _checked(data)
                path = target / thumbnail_path(image)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)


def _checked(data: bytes) -> None:
    """Refuse a thumbnail that is not a picture: these files are served to browsers."""
    try:
        with Image.open(io.BytesIO(data), formats=["WEBP", "PNG", "JPEG"]) as image:
            image.verify()
    except Exception as error:
        raise UnboxError(f"a thumbnail of the store is not a picture: {error}") from error


def _database(
    folder: Path, store: Any, saes: Mapping[str, SAE], keys: Mapping[str, str], previous: Path
) -> None:
    if (folder / DATABASE).exists():
        return
    kept = carried_labels(previous, keys)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with publish_file(folder / DATABASE) as temporary, database.connect(temporary, write=True) as connection:
        connection.executescript(database.SCHEMA)
        samples = ((i, s.prompt, s.seed) for i, s in enumerate(store.samples))
        database.insert(connection, "images", ("id", "prompt", "seed"), samples)
        start = 0
        for number, (name, sae) in enumerate(saes.items()):
            with h5py.File(folder / f"{number:03d}.h5") as file:
                _insert_sae(connection, file, store, sae, number, start, now)
            labels = [(start + index, *rest) for index, *rest in kept.get(keys[name], ())]
            columns = ("feature", "text", "kind", "author", "made", "score", "details")
            database.insert(connection, "labels", columns, labels)
            start += sae.latents
        database.choose_labels(connection)


def _insert_sae(
    connection: Any, file: h5py.File, store: Any, sae: SAE, number: int, start: int, now: str
) -> None:
    """Rows of one SAE's features, their labels and their words."""
    active, total, square = (file[name][()] for name in ("active", "total", "square"))
    by_step, steps = file["by_step"][()], np.array(store.schema.steps)
    places = len(store[sae.block])
    mean = total / np.maximum(active, 1)
    std = np.sqrt(np.maximum(square / np.maximum(active, 1) - mean**2, 0))
    fires = by_step > 0
    columns = (
        np.arange(start, start + sae.latents), np.full(sae.latents, number), [sae.block] * sae.latents,
        np.arange(sae.latents), active / places, file["pictures"][()] / len(store), mean, std,
        file["largest"][()].astype(float), steps[fires.argmax(1)], steps[::-1][fires[:, ::-1].argmax(1)],
        steps[by_step.argmax(1)],
    )  # fmt: skip
    lists = [column.tolist() if isinstance(column, np.ndarray) else column for column in columns]
    names = ("id", "sae", "block", "number", "density", "pictures", "mean", "std", "largest",
             "first_step", "last_step", "peak_step")  # fmt: skip
    database.insert(connection, "features", names, zip(*lists, strict=True))
    connection.execute(
        "UPDATE features SET first_step = NULL, last_step = NULL, peak_step = NULL WHERE density = 0"
    )
    labels = read_labels(file)
    named = (
        (start + i, label["text"], "words", "log-odds", now, label["score"])
        for i, label in enumerate(labels)
        if label["text"]
    )
    database.insert(connection, "labels", ("feature", "text", "kind", "author", "made", "score"), named)
    said = ((start + i, w["term"], w["z"]) for i, label in enumerate(labels) for w in label["words"])
    database.insert(connection, "terms", ("feature", "term", "z"), said)


def read_labels(file: h5py.File) -> list[dict[str, Any]]:
    """What `write_labels` wrote."""
    return parse_json(file["labels"][()].tobytes(), "labels of the atlas")


def carried_labels(previous: Path, keys: Mapping[str, str]) -> dict[str, list[tuple]]:
    """Labels by people and models in the atlas that is there, by the key of their SAE: (index, label...)."""
    if not (previous / INDEX).is_file():
        return {}
    index = read_json(previous / INDEX)
    wanted = {number: sae["key"] for number, sae in enumerate(index["saes"]) if sae["key"] in keys.values()}
    kept: dict[str, list[tuple]] = {}
    with database.connect(previous / index["data"] / DATABASE) as connection:
        rows: Iterable[Any] = connection.execute(
            "SELECT sae, number, text, kind, labels.author, made, labels.score, details "
            "FROM labels JOIN features ON features.id = feature WHERE kind != 'words' ORDER BY labels.id"
        )
        for number, *rest in rows:
            if number in wanted:
                kept.setdefault(wanted[number], []).append(tuple(rest))
    return kept


def _index(
    store: Any, saes: Mapping[str, SAE], keys: Mapping[str, str], plan: AtlasPlan, data: str, model: Any
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "data": data,
        "store": {
            "digest": store.digest,
            "images": len(store),
            "steps": list(store.schema.steps),
            "branches": list(store.schema.branches),
            "provenance": dict(store.provenance),
        },
        "plan": plan.to_json(),
        "encoders": None if model is None else model.system.name,
        "saes": [
            {
                "name": name, "block": sae.block, "latents": sae.latents, "k": sae.k, "width": sae.width,
                "update_std": sae.update_std, "key": keys[name],
            }
            for name, sae in saes.items()
        ],
    }  # fmt: skip
