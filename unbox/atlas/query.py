"""Asking an atlas: typed queries for the explorer, notebooks and the command line alike."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from unbox.atlas import atlas_files, database, text_embeddings
from unbox.atlas.feature_arrays import Axes, FeatureArrays
from unbox.atlas.feature_records import (
    ALL,
    Example,
    Facts,
    Filter,
    Histogram,
    KeptLabel,
    Label,
    Life,
    Related,
    SAEInfo,
)
from unbox.atlas.thumbnail_file import ThumbnailFile
from unbox.atlas.word_search import WordSearch, find_words
from unbox.errors import FieldError, UnboxError
from unbox.image_uri import PictureFile
from unbox.validation import Index, Text, Whole, behind, checked

if TYPE_CHECKING:
    from unbox.models.model import Model

#: Kinds of examples; `interval` wants its number too.
EXAMPLES = ("top", "random", "interval", "decoys")
#: Kinds of relations, and the arrays of each.
RELATED = ("neighbours", "coactive", "elsewhere")
RELATION_PARTS = ("other", "score", "share")


class Atlas:
    """An atlas on disk, open for questions; `Atlas.open(folder)`."""

    def __init__(self, path: Path, index: dict[str, Any], label_copy: Path | None = None) -> None:
        self.path, self.index = path, index
        self.label_copy = None if label_copy is None else label_copy / f"{index['data']}.sqlite"
        self.folder = path / index["data"]
        self.saes = tuple(SAEInfo(**sae) for sae in index["saes"])
        self._names = [sae.name for sae in self.saes]
        self._starts = [0, *accumulate(sae.latents for sae in self.saes)]
        self._usual: np.ndarray | None = None
        database.check_whole(self.database_path)

    @classmethod
    def open(cls, path: str | os.PathLike, label_copy: Path | None = None) -> Self:
        """`label_copy`: a folder for a copy of the database, made with the first label, for an atlas that is
        nobody's to write to (a bundled one). Raises UnboxError where there is no atlas, it is newer, or files
        of it are missing.
        """
        return cls(Path(path), atlas_files.read_index(Path(path)), label_copy)

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
    def identities(self) -> dict[str, str]:
        """Name -> identity of each SAE; empty in an atlas of a version before."""
        return dict(self.index.get("identities", {}))

    @property
    def intervals(self) -> int:
        """Number of activation intervals that have their own examples."""
        return int(self.index["plan"]["intervals"])

    def id(self, name: str) -> int:
        """Number of a feature by its name. Raises UnboxError, naming what exists."""
        sae, _, index = name.strip().rpartition("/")
        if sae not in self._names:
            raise UnboxError(f"'{name[:80]}' is not a feature: names are like {self.saes[0].name}/0, "
                             f"the SAEs are {', '.join(self._names)}")  # fmt: skip
        number = self._names.index(sae)
        latents = self.saes[number].latents
        if not (index.isascii() and index.isdigit() and int(index[:12]) < latents):
            raise UnboxError(f"{sae} has no feature '{index[:20]}'; it has 0 to {latents - 1}")
        return self._starts[number] + int(index)

    def feature(self, feature: str | int) -> Facts:
        """Facts of a feature, by name or id."""
        return self.features([self._number(feature)])[0]

    def features(self, ids: Sequence[int]) -> list[Facts]:
        """Facts of several features, in their order."""
        rows = self._rows(database.FEATURES, [json.dumps([int(i) for i in ids])])
        found = {row[0]: self._facts(row) for row in rows}
        if gone := [int(i) for i in ids if int(i) not in found]:
            raise database.damaged(self.database_path, f"it lacks feature {gone[0]}")
        return [found[int(i)] for i in ids]

    def search(
        self,
        text: str = "",
        among: Filter = ALL,
        *,
        order: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> list[Facts]:
        """Features by words of their labels and captions, of those that pass a filter.

        `order`: one of `database.ORDERS`; None ranks by words where there are some, else by density. A name
        like `up.0.1/12` as text finds that feature, a number alone the features of that index.
        """
        self._check(among)
        rows = self._rows(*database.search(text, among, self._names, order, limit, offset))
        with suppress(UnboxError):
            return [self.feature(text)] if "/" in text else [self._facts(row) for row in rows]
        return [self._facts(row) for row in rows]

    def find(
        self, text: str, among: Filter = ALL, *, order: str | None = None, limit: int = 50
    ) -> WordSearch:
        """As `search`, for what people type: names of blocks and SAEs in the text are filters, a letter
        mistyped is mended, and where no feature has all of the words those with some are given; a note says
        so."""
        text = checked(Text, "text", text, "search")
        rest = []
        for word in text.split():
            if word in self.blocks and among.block is None:
                among = replace(among, block=word)
            elif word in self._names and among.sae is None:
                among = replace(among, sae=word)
            else:
                rest.append(word)

        def search(words: str, some: bool) -> list[Facts]:
            if not some:
                return self.search(words, among, order=order, limit=limit)
            rows = self._rows(*database.search(words, among, self._names, order, limit, 0, some=True))
            return [self._facts(row) for row in rows]

        return find_words(search, " ".join(rest), lambda: database.vocabulary(self.database_path))

    def in_no_caption(self, text: str) -> list[str]:
        """The words of a text with which no word of a caption of the atlas begins (of an atlas of a version
        before: which no caption has in it)."""
        words = dict.fromkeys(database.words_of(checked(Text, "text", text, "search")))
        if not self._rows(database.HAS_CAPTION_WORDS):
            return [word for word in words if not self._rows(database.IN_ANY_CAPTION, [f"%{word}%"])]
        ends = ((word, word.lower(), word.lower() + chr(0x10FFFF)) for word in words)
        return [word for word, first, last in ends if not self._rows(database.IN_CAPTION, [first, last])]

    def meaning(self, model: "Model", text: str, among: Filter = ALL, *, limit: int = 50) -> list[Related]:
        """Features whose top captions mean something near `text`, by the model's own text encoders, of those
        that pass a filter. `score`: the cosine of the two less its mean over random words of the atlas: what
        is near to every word is near to none."""
        if self._meanings is None:
            raise UnboxError("this atlas has no caption embeddings; `unbox atlas --model MODEL` makes them")
        text = checked(Text, "text", text, "search")
        limit = checked(database.SearchLimit, "limit", limit, "search")
        vectors, mean = self._meanings
        query = text_embeddings.embed(model, [text])[0]
        if len(query) != len(mean):
            raise UnboxError(
                f"the atlas was embedded by {self.index['encoders']}; "
                f"{model.system.name} has other text encoders"
            )
        scores = text_embeddings.nearest(vectors, mean, query) - self._usual_likeness(model)
        inside = np.zeros(len(scores), bool)
        self._check(among)
        inside[[number for (number,) in self._rows(*database.passing(among, self._names))]] = True
        scores = np.where(inside & vectors.any(1), scores, -1)
        best = [int(i) for i in np.argsort(-scores, kind="stable")[:limit] if scores[i] > 0]
        return [Related(f, float(scores[f.id]), 0.0) for f in self.features(best)]

    def _usual_likeness(self, model: "Model") -> np.ndarray:
        """(n,) mean likeness of each feature to random words of the atlas; 0 where it has no words."""
        if self._usual is None:
            words = sorted(database.vocabulary(self.database_path))
            vectors, mean = self._meanings or (np.zeros((len(self), 1)), np.zeros(1))
            chosen = np.random.default_rng(0).permutation(len(words))[: text_embeddings.RANDOM_WORDS]
            texts = text_embeddings.embed(model, [words[i] for i in chosen]) if words else mean[None]
            self._usual = text_embeddings.usual_likeness(vectors, mean, texts)
        return self._usual

    def examples(self, feature: str | int, kind: str = "top", interval: int | None = None) -> list[Example]:
        """Images of one of EXAMPLES; those of `interval` number 0 to `intervals` - 1 for that kind."""
        if kind not in EXAMPLES or (kind == "interval") != (interval is not None):
            raise UnboxError(f"examples are one of {', '.join(EXAMPLES)}; 'interval' wants its number")
        file, row = self._row(feature)
        name, part = ("intervals", self._interval(interval)) if interval is not None else (kind, slice(None))
        images = file.read(f"{name}/image", row)[part]
        height, width = file.pair("map_shape")
        peaks: np.ndarray = np.zeros(len(images), np.float32)
        heats: np.ndarray = np.zeros((len(images), height, width), np.float32)
        if kind != "decoys":
            peaks = file.read(f"{name}/peak", row)[part]
            levels = file.read(f"{name}/maps", row)[part].reshape(-1, height, width).astype(np.float32)
            heats = levels / 255 * peaks[:, None, None]
        rows = self._rows(database.CAPTIONS, [json.dumps(images.tolist())])
        captions = {number: (prompt, seed) for number, prompt, seed in rows}
        if gone := [image for image in images.tolist() if image >= 0 and image not in captions]:
            raise database.damaged(self.database_path, f"it lacks image {gone[0]}")
        return [
            Example(image, *captions[image], float(peak), heat, self.thumbnail(image))
            for image, peak, heat in zip(images.tolist(), peaks, heats, strict=True)
            if image >= 0
        ]

    def cover(self, feature: str | int) -> PictureFile | None:
        """Thumbnail of the image in which the feature is most active."""
        file, row = self._row(feature)
        image = int(file.read("top/image", row)[0])
        return None if image < 0 else self.thumbnail(image)

    def histogram(self, feature: str | int) -> Histogram:
        """How strong the feature is where it is active."""
        file, row = self._row(feature)
        counts = file.read("histogram", row)
        return Histogram(np.linspace(0, float(file.read("scale", row)), len(counts) + 1), counts)

    def life(self, feature: str | int) -> Life:
        """The feature over the steps of a run."""
        file, row = self._row(feature)
        places = file.read("by_step", row)
        both = file.read("both", row) if len(self.steps) > 1 else np.zeros(0)
        either = places[:-1] + places[1:] - both
        first, last = file.read("first", row), file.read("last", row)
        return Life(self.steps, places, first, last, both / np.maximum(either, 1))

    def by_branch(self, feature: str | int) -> dict[str, int]:
        """Places where the feature is active, by branch."""
        file, row = self._row(feature)
        return dict(zip(self.branches, map(int, file.read("by_branch", row)), strict=True))

    def by_position(self, feature: str | int) -> np.ndarray:
        """(y, x) share of the feature's places that lie in each cell of the image."""
        file, row = self._row(feature)
        counts = file.read("by_cell", row).reshape(file.pair("map_shape"))
        return counts / max(counts.sum(), 1)

    def related(self, feature: str | int, kind: str) -> list[Related]:
        """Features near in the decoder (`neighbours`), active in the same places of the same block
        (`coactive`) or of other blocks (`elsewhere`)."""
        if kind not in RELATED:
            raise UnboxError(f"relations are one of {', '.join(RELATED)}")
        number = self._number(feature)
        if kind == "elsewhere":
            file, row, start, prefix = self._relations, number, 0, ""
        else:
            file, row = self._row(number)
            start, prefix = number - row, f"{kind}/"
        index, score, share = (file.read(prefix + part, row) for part in ("other", "score", "share"))
        present = index >= 0
        facts = self.features([int(i) + start for i in index[present]])
        scores, shares = score[present].tolist(), share[present].tolist()
        return [Related(*each) for each in zip(facts, scores, shares, strict=True)]

    def words(self, feature: str | int) -> list[tuple[str, float]]:
        """Words that set the feature's captions apart, with z of their log-odds."""
        return self._rows(database.TERMS, [self._number(feature)])

    def labels(self, feature: str | int) -> list[Label]:
        """Every label of a feature, newest first."""
        return [Label(*row) for row in self._rows(database.LABELS, [self._number(feature)])]

    def kept_labels(self) -> list[KeptLabel]:
        """Labels by people and models of SAEs that are not in this atlas: removed, or changed since."""
        if not self._rows(database.HAS_KEPT_LABELS):
            return []
        rows = self._rows(database.KEPT_LABELS)
        return [KeptLabel(identity, sae, n, Label(*label)) for identity, sae, n, *label, _ in rows]

    def thumbnail(self, image: int) -> PictureFile | None:
        """An image's thumbnail, None where the atlas keeps none of it."""
        if self._thumbnails is not None:
            return self._thumbnails.find(image)
        path = self.folder / atlas_files.FORMER_THUMBNAILS / atlas_files.thumbnail_path(image)
        return path if path.is_file() else None

    @cached_property
    def _thumbnails(self) -> ThumbnailFile | None:
        path = self.folder / atlas_files.THUMBNAILS
        return ThumbnailFile.open(path) if path.is_file() else None

    def summary(self) -> list[tuple[str, int, int, int, float | None, float | None, int]]:
        """By SAE: name, features, those ever active, those with a label, median density of the active ones,
        mean score of the labels that have one, and the number of those."""
        rows, result = self._rows(database.SUMMARY), []
        for number, sae in enumerate(self.saes):
            part = [row[1:] for row in rows if row[0] == number]
            active = [density for density, _, _ in part if density > 0]
            scores = [score for _, _, score in part if score is not None]
            result.append((
                sae.name, len(part), len(active), sum(bool(label) for _, label, _ in part),
                float(np.median(active)) if active else None,
                float(np.mean(scores)) if scores else None, len(scores),
            ))  # fmt: skip
        return result

    @property
    def database_path(self) -> Path:
        """The SQLite file that is read: the user's own copy where there is one."""
        copy = self.label_copy
        return copy if copy is not None and copy.is_file() else self.folder / atlas_files.DATABASE

    def _rows(self, query: str, values: Sequence[database.Cell] = ()) -> list[tuple]:
        return database.rows(self.database_path, query, values)

    def _facts(self, row: database.FactsRow) -> Facts:
        number, sae, block, index, *rest = row
        with behind(str(self.database_path)):
            place = checked(Index, "sae", sae)
            if place >= len(self.saes):
                raise FieldError("", "sae", sae, f"should be one of {len(self.saes)} SAEs")
            return Facts(number, f"{self.saes[place].name}/{index}", block, index, *rest)

    def _number(self, feature: str | int) -> int:
        if isinstance(feature, str):
            return self.id(feature)
        number = checked(Whole, "feature", feature, "the atlas")
        if not 0 <= number < len(self):
            raise UnboxError(f"there is no feature {number}; the atlas has {len(self):,}")
        return number

    def _check(self, among: Filter) -> None:
        """Refuse a filter by a block or an SAE that is not there."""
        if among.block is not None and among.block not in self.blocks:
            raise UnboxError(f"the atlas has no block '{among.block}'; it has {', '.join(self.blocks)}")
        if among.sae is not None and among.sae not in self._names:
            raise UnboxError(f"the atlas has no SAE '{among.sae}'; it has {', '.join(self._names)}")

    def _interval(self, interval: int) -> slice:
        interval = checked(Whole, "interval", interval, "examples")
        if not 0 <= interval < self.intervals:
            raise UnboxError(f"there is no interval {interval}; there are {self.intervals}, from 0")
        size = int(self.index["plan"]["per_interval"])
        return slice(interval * size, (interval + 1) * size)

    def _row(self, feature: str | int) -> tuple[FeatureArrays, int]:
        """The file of the feature's SAE, and its row."""
        number = self._number(feature)
        sae = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._arrays(sae), number - self._starts[sae]

    @cache  # noqa: B019 - an atlas and its open files live together
    def _arrays(self, sae: int) -> FeatureArrays:
        """The file of an SAE, checked."""
        path, steps, plan = atlas_files.sae_file(self.folder, sae), len(self.steps), self.index["plan"]
        height, width = FeatureArrays(path, None, {}).pair("map_shape")
        cells, spread = height * width, int(plan["intervals"]) * int(plan["per_interval"])
        axes: dict[str, Axes] = {"scale": (), "histogram": (None,), "by_branch": (len(self.branches),)}
        axes |= dict.fromkeys(("by_step", "first", "last"), (steps,))
        axes |= {"both": (steps - 1,), "by_cell": (cells,), "decoys/image": (None,)}
        for kind, count in (("top", plan["top"]), ("random", plan["random"]), ("intervals", spread)):
            axes |= {f"{kind}/image": (count,), f"{kind}/peak": (count,), f"{kind}/maps": (count, cells)}
        axes |= {f"{kind}/{part}": (None,) for kind in RELATED[:2] for part in RELATION_PARTS}
        return FeatureArrays(path, self.saes[sae].latents, axes)

    @cached_property
    def _relations(self) -> FeatureArrays:
        axes: dict[str, Axes] = dict.fromkeys(RELATION_PARTS, (None,))
        return FeatureArrays(self.folder / atlas_files.RELATIONS, len(self), axes)

    @cached_property
    def _meanings(self) -> tuple[np.ndarray, np.ndarray] | None:
        path = self.folder / atlas_files.MEANING
        if not path.is_file():
            return None
        features = FeatureArrays(path, len(self), {"features": (None,)}).read("features", slice(None))
        mean = FeatureArrays(path, 1, {"mean": (features.shape[1],)}).read("mean", 0)
        return features, mean
