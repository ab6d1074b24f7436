"""Asking an atlas: typed queries for the explorer, notebooks and the command line alike."""

import os
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from activation_store import StoreError, read_json
from unbox.atlas import database, text_embeddings
from unbox.atlas.build import DATABASE, FORMAT, INDEX, MEANING, RELATIONS, THUMBNAILS, VERSION, thumbnail_path
from unbox.atlas.feature_records import Example, Facts, Histogram, Label, Life, Related, SAEInfo
from unbox.errors import UnboxError

#: Kinds of examples; `interval` wants its number too.
EXAMPLES = ("top", "random", "interval", "decoys")
#: Kinds of relations.
RELATED = ("neighbours", "coactive", "elsewhere")
#: Rank of a search by words: BM25 (smaller is better) with labels ten times as heavy as caption words, for
#: a label whose held-out score is chance a quarter of that for one that foretells perfectly.
MATCH = "bm25(words, 10.0, 1.0) * (0.25 + 1.5 * MAX(COALESCE(score, 0.5) - 0.5, 0)), features.id"
#: What a search can be ordered by, and the SQL of it.
ORDERS = {
    "density": "density DESC",
    "rarest": "density ASC",
    "activation": "largest DESC",
    "label score": "score DESC NULLS LAST",
    "index": "features.id ASC",
}
_COLUMNS = (
    "features.id, sae, block, number, density, pictures, mean, std, largest, first_step, last_step, "
    "peak_step, features.label, author, score"
)


class Atlas:
    """An atlas on disk, open for questions; `Atlas.open(folder)`."""

    def __init__(self, path: Path, index: dict[str, Any], own: Path | None = None) -> None:
        self.path, self.index = path, index
        self.own = None if own is None else own / f"{index['data']}.sqlite"
        self.folder = path / index["data"]
        self.saes = tuple(SAEInfo(**sae) for sae in index["saes"])
        self._starts = [0]
        for sae in self.saes:
            self._starts.append(self._starts[-1] + sae.latents)

    @classmethod
    def open(cls, path: str | os.PathLike, own: Path | None = None) -> Self:
        """`own`: a folder for a copy of the database, made with the first label, for an atlas that is
        nobody's to write to (a bundled one). Raises UnboxError where there is no atlas, it is newer, or files
        of it are missing.
        """
        folder = Path(path)
        if not (folder / INDEX).is_file():
            raise UnboxError(f"there is no atlas at {folder}; `unbox atlas` builds one")
        try:
            index = read_json(folder / INDEX)
        except StoreError as error:
            raise UnboxError(str(error)) from None
        if not isinstance(index, dict) or index.get("format") != FORMAT or index.get("version") != VERSION:
            raise UnboxError(
                f"{folder} is not an atlas of version {VERSION}: build it again with `unbox atlas`"
            )
        if Path(index["data"]).name != index["data"] or not (folder / index["data"] / DATABASE).is_file():
            raise UnboxError(f"the atlas at {folder} is not whole: build it again with `unbox atlas`")
        return cls(folder, index, own)

    def __repr__(self) -> str:
        return f"Atlas({self.path}: {len(self):,} features of {', '.join(sae.name for sae in self.saes)})"

    def __len__(self) -> int:
        """Number of features."""
        return self._starts[-1]

    @property
    def blocks(self) -> tuple[str, ...]:
        """Blocks that have features, each once."""
        return tuple(dict.fromkeys(sae.block for sae in self.saes))

    @property
    def steps(self) -> tuple[int, ...]:
        """The store's steps."""
        return tuple(self.index["store"]["steps"])

    @property
    def branches(self) -> tuple[str, ...]:
        """The store's branches."""
        return tuple(self.index["store"]["branches"])

    @property
    def intervals(self) -> int:
        """Number of activation intervals that have their own examples."""
        return int(self.index["plan"]["intervals"])

    def id(self, name: str) -> int:
        """Number of a feature by its name. Raises UnboxError, naming what exists."""
        sae, _, index = name.strip().rpartition("/")
        known = {each.name: i for i, each in enumerate(self.saes)}
        if sae not in known:
            raise UnboxError(f"'{name[:80]}' is not a feature: names are like {self.saes[0].name}/0, "
                             f"the SAEs are {', '.join(known)}")  # fmt: skip
        number, latents = known[sae], self.saes[known[sae]].latents
        if not (index.isascii() and index.isdigit() and int(index[:12]) < latents):
            raise UnboxError(f"{sae} has no feature '{index[:20]}'; it has 0 to {latents - 1}")
        return self._starts[number] + int(index)

    def feature(self, feature: str | int) -> Facts:
        """Facts of a feature, by name or id."""
        return self.features([self._number(feature)])[0]

    def features(self, ids: Sequence[int]) -> list[Facts]:
        """Facts of several features, in their order."""
        marks = ",".join("?" * len(ids))
        with self._database() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM features WHERE features.id IN ({marks})", [int(i) for i in ids]
            ).fetchall()
        found = {row[0]: self._facts(row) for row in rows}
        return [found[int(i)] for i in ids]

    def search(
        self,
        words: str = "",
        *,
        sae: str | None = None,
        block: str | None = None,
        density: tuple[float, float] | None = None,
        step: int | None = None,
        labelled: bool = False,
        order: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> list[Facts]:
        """Features by words of their labels and captions, and by statistics.

        `density`: share of places, both ends included. `step`: where the feature is most often active.
        `order`: one of ORDERS; None ranks by words where there are some, else by density. A name like
        `up.0.1/12` as words finds that feature, a number alone the features of that index.
        """
        query = database.match(words)
        conditions, values = self._conditions(sae, block, density, step, labelled)
        if order is not None and order not in ORDERS:
            raise UnboxError(f"no order '{order}'; there are {', '.join(ORDERS)}")
        named = self._named(words)
        if named is not None:
            return [self.feature(named)]
        if words.strip().isascii() and words.strip().isdigit():
            query, conditions, values = "", [*conditions, "number = ?"], [*values, int(words.strip()[:15])]
        elif words.strip() and not query:
            return []
        ranking = ORDERS[order or "density"]
        source = "features"
        if query:
            source = "words JOIN features ON features.id = words.rowid"
            conditions, values = ["words MATCH ?", *conditions], [query, *values]
            ranking = ORDERS[order] if order else MATCH
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        with self._database() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM {source} {where} ORDER BY {ranking} LIMIT ? OFFSET ?",
                [*values, max(0, min(int(limit), 1000)), max(0, int(offset))],
            ).fetchall()
        return [self._facts(row) for row in rows]

    def meaning(
        self,
        model: Any,
        text: str,
        *,
        sae: str | None = None,
        block: str | None = None,
        density: tuple[float, float] | None = None,
        step: int | None = None,
        labelled: bool = False,
        limit: int = 50,
    ) -> list[Related]:
        """Features whose top captions mean something near `text`, by the model's own text encoders, among
        those that fit the statistics (see `search`)."""
        if self._meanings is None:
            raise UnboxError(
                "this atlas has no caption embeddings; build it with `unbox atlas --model MODEL`"
            )
        vectors, mean = self._meanings
        query = text_embeddings.embed(model, [text])[0]
        if len(query) != len(mean):
            raise UnboxError(
                f"the atlas was embedded by {self.index['encoders']}; "
                f"{model.system.name} has other text encoders"
            )
        scores = text_embeddings.nearest(vectors, mean, query)
        conditions, values = self._conditions(sae, block, density, step, labelled)
        if conditions:
            with self._database() as connection:
                rows = connection.execute(f"SELECT id FROM features WHERE {' AND '.join(conditions)}", values)
                fits = [number for (number,) in rows.fetchall()]
            inside = np.zeros(len(scores), bool)
            inside[fits] = True
            scores = np.where(inside, scores, -1)
        best = [int(i) for i in np.argsort(-scores, kind="stable")[: max(0, limit)] if scores[i] > 0]
        return [Related(f, float(scores[f.id]), 0.0) for f in self.features(best)]

    def examples(self, feature: str | int, kind: str = "top", interval: int | None = None) -> list[Example]:
        """Images of one of EXAMPLES; those of `interval` number 0 to `intervals` - 1 for that kind."""
        if kind not in EXAMPLES or (kind == "interval") != (interval is not None):
            raise UnboxError(f"examples are one of {', '.join(EXAMPLES)}; 'interval' wants its number")
        file, row = self._row(feature)
        name, part = ("intervals", self._interval(interval)) if interval is not None else (kind, slice(None))
        images = file[f"{name}/image"][row][part]
        height, width = (int(side) for side in file.attrs["map_shape"])
        peaks, heats = np.zeros(len(images), np.float32), np.zeros((len(images), height, width), np.float32)
        if kind != "decoys":
            peaks = file[f"{name}/peak"][row][part]
            levels = file[f"{name}/maps"][row][part].reshape(-1, height, width).astype(np.float32)
            heats = levels / 255 * peaks[:, None, None]
        return self._with_captions([int(i) for i in images], peaks, heats)

    def cover(self, feature: str | int) -> Path | None:
        """Thumbnail of the image in which the feature is most active."""
        file, row = self._row(feature)
        image = int(file["top/image"][row, 0])
        return None if image < 0 else self.thumbnail(image)

    def histogram(self, feature: str | int) -> Histogram:
        """How strong the feature is where it is active."""
        file, row = self._row(feature)
        counts = file["histogram"][row]
        return Histogram(np.linspace(0, float(file["scale"][row]), len(counts) + 1), counts)

    def life(self, feature: str | int) -> Life:
        """The feature over the steps of a run."""
        file, row = self._row(feature)
        places, both = file["by_step"][row], file["both"][row] if len(self.steps) > 1 else np.zeros(0)
        either = places[:-1] + places[1:] - both
        return Life(self.steps, places, file["first"][row], file["last"][row], both / np.maximum(either, 1))

    def by_branch(self, feature: str | int) -> dict[str, int]:
        """Places where the feature is active, by branch."""
        file, row = self._row(feature)
        return dict(zip(self.branches, map(int, file["by_branch"][row]), strict=True))

    def by_position(self, feature: str | int) -> np.ndarray:
        """(y, x) share of the feature's places that lie in each cell of the image."""
        file, row = self._row(feature)
        counts = file["by_cell"][row].reshape(file.attrs["map_shape"])
        return counts / max(counts.sum(), 1)

    def related(self, feature: str | int, kind: str) -> list[Related]:
        """Features near in the decoder (`neighbours`), active in the same places of the same block
        (`coactive`) or of other blocks (`elsewhere`)."""
        if kind not in RELATED:
            raise UnboxError(f"relations are one of {', '.join(RELATED)}")
        number = self._number(feature)
        if kind == "elsewhere":
            group, row, start = self._file(RELATIONS), number, 0
        else:
            file, row = self._row(number)
            group, start = file[kind], number - row
        index, score, share = (group[part][row] for part in ("other", "score", "share"))
        there = index >= 0
        facts = self.features([int(i) + start for i in index[there]])
        return [
            Related(*each) for each in zip(facts, score[there].tolist(), share[there].tolist(), strict=True)
        ]

    def words(self, feature: str | int) -> list[tuple[str, float]]:
        """Words that set the feature's captions apart, with z of their log-odds."""
        with self._database() as connection:
            return connection.execute(
                "SELECT term, z FROM terms WHERE feature = ? ORDER BY z DESC", [self._number(feature)]
            ).fetchall()

    def labels(self, feature: str | int) -> list[Label]:
        """Every label of a feature, newest first."""
        with self._database() as connection:
            rows = connection.execute(
                "SELECT text, kind, author, made, score FROM labels WHERE feature = ? ORDER BY id DESC",
                [self._number(feature)],
            ).fetchall()
        return [Label(*row) for row in rows]

    def thumbnail(self, image: int) -> Path | None:
        """File of an image's thumbnail, None where the atlas keeps none of it."""
        path = self.folder / THUMBNAILS / thumbnail_path(image)
        return path if path.is_file() else None

    def summary(self) -> list[tuple[str, int, int, int, float | None, float | None, int]]:
        """By SAE: name, features, those ever active, those with a label, median density of the active ones,
        mean score of the labels that have one, and the number of those."""
        with self._database() as connection:
            rows = connection.execute("SELECT sae, density, label, score FROM features").fetchall()
        result = []
        for number, sae in enumerate(self.saes):
            own = [row[1:] for row in rows if row[0] == number]
            active = [density for density, _, _ in own if density > 0]
            scores = [score for _, _, score in own if score is not None]
            result.append((
                sae.name, len(own), len(active), sum(bool(label) for _, label, _ in own),
                float(np.median(active)) if active else None,
                float(np.mean(scores)) if scores else None, len(scores),
            ))  # fmt: skip
        return result

    @property
    def database_path(self) -> Path:
        """The SQLite file that is read: the user's own copy where there is one."""
        return self.own if self.own is not None and self.own.is_file() else self.folder / DATABASE

    def _database(self) -> Any:
        return database.connect(self.database_path)

    def _facts(self, row: tuple) -> Facts:
        number, sae, block, index, *rest = row
        return Facts(number, f"{self.saes[sae].name}/{index}", block, index, *rest)

    def _number(self, feature: str | int) -> int:
        if isinstance(feature, str):
            return self.id(feature)
        if not 0 <= feature < len(self):
            raise UnboxError(f"there is no feature {feature}; the atlas has {len(self):,}")
        return int(feature)

    def _named(self, words: str) -> int | None:
        try:
            return self.id(words) if "/" in words else None
        except UnboxError:
            return None

    def _conditions(
        self, sae: str | None, block: str | None, density: tuple[float, float] | None, step: int | None,
        labelled: bool,
    ) -> tuple[list[str], list[Any]]:  # fmt: skip
        if block is not None and block not in self.blocks:
            raise UnboxError(f"the atlas has no block '{block}'; it has {', '.join(self.blocks)}")
        names = [each.name for each in self.saes]
        if sae is not None and sae not in names:
            raise UnboxError(f"the atlas has no SAE '{sae}'; it has {', '.join(names)}")
        wanted: list[tuple[bool, str, list[Any]]] = [
            (sae is not None, "sae = ?", [names.index(sae)] if sae is not None else []),
            (block is not None, "block = ?", [block]),
            (density is not None, "density BETWEEN ? AND ?", list(map(float, density or ()))),
            (step is not None, "peak_step = ?", [step]),
            (labelled, "features.label != ''", []),
        ]
        chosen = [(sql, values) for given, sql, values in wanted if given]
        return [sql for sql, _ in chosen], [value for _, values in chosen for value in values]

    def _interval(self, interval: int) -> slice:
        if not 0 <= interval < self.intervals:
            raise UnboxError(f"there is no interval {interval}; there are {self.intervals}, from 0")
        size = int(self.index["plan"]["per_interval"])
        return slice(interval * size, (interval + 1) * size)

    def _row(self, feature: str | int) -> tuple[h5py.File, int]:
        """The file of the feature's SAE, and its row."""
        number = self._number(feature)
        sae = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._file(f"{sae:03d}.h5"), number - self._starts[sae]

    @cache  # noqa: B019 - an atlas and its open files live together
    def _file(self, name: str) -> h5py.File:
        return h5py.File(self.folder / name, "r", locking=False)

    @cached_property
    def _meanings(self) -> tuple[np.ndarray, np.ndarray] | None:
        if not (self.folder / MEANING).is_file():
            return None
        return self._file(MEANING)["features"][()], self._file(MEANING)["mean"][0]

    def _with_captions(self, images: list[int], peaks: np.ndarray, heats: np.ndarray) -> list[Example]:
        marks = ",".join("?" * len(images))
        with self._database() as connection:
            rows = connection.execute(f"SELECT id, prompt, seed FROM images WHERE id IN ({marks})", images)
            known = {number: (prompt, seed) for number, prompt, seed in rows.fetchall()}
        return [
            Example(image, *known[image], float(peak), heat, self.thumbnail(image))
            for image, peak, heat in zip(images, peaks, heats, strict=True)
            if image >= 0
        ]
