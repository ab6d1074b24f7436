"""Files of figures that the explorer is given: of `unbox evaluate`, and of `unbox bench shapes`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
