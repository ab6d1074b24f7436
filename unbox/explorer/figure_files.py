"""Files of figures that the explorer is given: of `unbox evaluate`, `unbox bench shapes` and `unbox diff`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from activation_store import Store
from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.text_files import read_json_file

#: Figures that are shown of an SAE, and of a step and branch of it, as `unbox evaluate` names them, in order.
FIGURES = ("explained_variance", "fvu", "fvu_interval", "l0", "dead_fraction", "dense_fraction", "rows")
GROUP_FIGURES = ("step", "branch", "explained_variance", "l0", "rows")
#: Lists of the benchmark's results -> what is shown of each of their rows: texts, numbers.
_SHOWN = {
    "ownership": (("kind", "block"), ("success", "success_low", "success_high")),
    "meaning": (("block", "method"), ("auroc",)),
}
#: What is shown of a feature of a comparison.
CHANGE = ("index", "first", "other", "change", "low", "high", "t", "q", "p_family")
#: What is shown of a system's changes, and of those of a random split.
COUNTS = ("gained", "lost", "gained_family", "lost_family", "largest_t")
CHANCE = ("listed", "largest_t", "features", "splits")
#: A shard's thumbnails are read by one thread at a time.
_READING = Lock()


@dataclass(frozen=True)
class Thumbnail:
    """A kept picture of a store, read when a page asks for it."""

    store: Store
    image: int
    suffix: str = ".webp"

    def read_bytes(self) -> bytes:
        """The file; empty where none was kept."""
        with _READING:
            return self.store.thumbnail_or_empty(self.image)

    def __str__(self) -> str:
        return f"{self.store.path} {self.image}"


@dataclass(frozen=True)
class Comparison:
    """What `unbox diff` left in a folder."""

    folder: Path
    figures: Mapping[str, Any]
    stores: Mapping[str, Store]
    """Of the systems whose images lie in the folder too."""


def read_comparison(folder: Path) -> Comparison:
    """The folder of `unbox diff`, or its `figures.json`. Raises UnboxError that names file and key."""
    folder = folder if folder.is_dir() else folder.parent
    path = folder / "figures.json"
    figures = dict(_object(read_json_file(path), str(path)))
    systems, blocks = (_object(figures.get(n), f"{path}: {n}") for n in ("systems", "blocks"))
    counts = [figures.get(name) for name in ("images", "held_out")]
    if figures.get("first") not in list(systems) or not all(map(_is_number, counts)):
        raise UnboxError(f"{path} has no first, images or held_out as `unbox diff` writes them")
    for block, of in blocks.items():
        _check_block(_object(of, f"{path}: {block}"), list(systems), f"{path}: {block}")
    stores = {name: folder / "stores" / str(name) for name in systems}
    return Comparison(folder, figures, {n: Store.open(s) for n, s in stores.items() if s.is_dir()})


def _check_block(found: Mapping[str, JSON], systems: Sequence[str], where: str) -> None:
    """Raise UnboxError for what is none of a block's figures."""
    explained, changes, features = (
        _object(found.get(name), f"{where} {name}") for name in ("explained", "changes", "features")
    )
    for told in explained.values():
        for name in systems:
            _numbers(_object(told, where).get(name), ("fvu", "low", "high"), f"{where} explained {name}")
    for name in ("random split", *changes):
        _numbers(changes.get(name), CHANCE if name == "random split" else COUNTS, f"{where} changes {name}")
    for name, listed in features.items():
        for i, feature in enumerate(_list(listed, f"{where} features {name}")):
            place = f"{where} features {name}[{i}]"
            images = _list(_numbers(feature, CHANGE, place).get("images"), f"{place} images")
            if not all(isinstance(image, int) for image in images):
                raise UnboxError(f"{place} images are no numbers")


def read_figures(path: Path) -> dict[str, dict[str, Any]]:
    """`figures.json` of `unbox evaluate`: SAE -> its figures (those shown are a number or an interval each)
    and `groups`, a list of figures by step and branch. Raises UnboxError that names the file and the key."""
    found = {}
    for name, figures in _object(read_json_file(path), str(path)).items():
        found[name] = dict(_object(figures, f"{path}: {name}"))
        groups = found[name].pop("groups", [])
        rows = {"": found[name]} | {
            f" groups[{i}]": g for i, g in enumerate(_list(groups, f"{path}: groups"))
        }
        for place, row in rows.items():
            for key, value in _object(row, f"{path}: {name}{place}").items():
                if key in (*FIGURES, *GROUP_FIGURES) and not _is_figure(value):
                    raise UnboxError(f"{path}: {name}{place} {key} is no figure but {_shown(value)}")
        found[name] |= {"groups": groups} if groups else {}
    return found


def read_bench_results(path: Path) -> dict[str, Any]:
    """`results.json` of `unbox bench shapes`, or of the folder that holds it. Raises as `read_figures`."""
    path = path / "results.json" if path.is_dir() else path
    results = dict(_object(read_json_file(path), str(path)))
    for name, (texts, numbers) in _SHOWN.items():
        for place, row in enumerate(_list(results.get(name, []), f"{path}: {name}")):
            where = f"{path}: {name}[{place}]"
            cells = _object(row, where)
            wrong = [key for key in texts if not isinstance(cells.get(key), str)]
            wrong += [key for key in numbers if not _is_number(cells.get(key))]
            if wrong:
                raise UnboxError(f"{where} has no {wrong[0]}, or another than `unbox bench shapes` writes")
    return results


def _object(value: JSON, where: str) -> Mapping[str, JSON]:
    if not isinstance(value, Mapping):
        raise UnboxError(f"{where} is not an object of figures but {_shown(value)}")
    return value


def _numbers(value: JSON, names: Sequence[str], where: str) -> Mapping[str, JSON]:
    """An object with these numbers."""
    row = _object(value, where)
    if wrong := [name for name in names if not _is_number(row.get(name))]:
        raise UnboxError(f"{where} has no {wrong[0]}, or another than `unbox diff` writes")
    return row


def _list(value: JSON, where: str) -> Sequence[JSON]:
    if not isinstance(value, list):
        raise UnboxError(f"{where} is not a list but {_shown(value)}")
    return value


def _is_number(value: JSON) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_figure(value: JSON) -> bool:
    """A number, a text, nothing, or an interval's two ends."""
    pair = isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
    return value is None or isinstance(value, str) or _is_number(value) or pair


def _shown(value: JSON) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"
