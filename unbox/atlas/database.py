"""The atlas's SQLite: features, labels, words for full-text search, captions. All of the SQL is here."""

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from unbox.atlas.feature_records import Filter
from unbox.atlas.stop_words import STOP
from unbox.errors import FieldError, UnboxError
from unbox.validation import Index, Text, Whole, checked, unknown

#: Kinds of labels, the one shown first where a feature has several.
KINDS = ("human", "model", "words")

SCHEMA = """
CREATE TABLE images (id INTEGER PRIMARY KEY, prompt TEXT NOT NULL, seed INTEGER NOT NULL);
CREATE TABLE features (
    id INTEGER PRIMARY KEY, sae INTEGER NOT NULL, block TEXT NOT NULL, number INTEGER NOT NULL,
    density REAL NOT NULL, pictures REAL NOT NULL, mean REAL NOT NULL, std REAL NOT NULL,
    largest REAL NOT NULL, first_step INTEGER, last_step INTEGER, peak_step INTEGER,
    label TEXT NOT NULL DEFAULT '', author TEXT NOT NULL DEFAULT '', score REAL
);
CREATE INDEX features_density ON features (density);
CREATE INDEX features_block ON features (block, density);
CREATE TABLE labels (
    id INTEGER PRIMARY KEY, feature INTEGER NOT NULL REFERENCES features, text TEXT NOT NULL,
    kind TEXT NOT NULL, author TEXT NOT NULL, made TEXT NOT NULL, score REAL,
    details TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX labels_feature ON labels (feature);
CREATE TABLE kept_labels (
    identity TEXT NOT NULL, sae TEXT NOT NULL, number INTEGER NOT NULL, text TEXT NOT NULL,
    kind TEXT NOT NULL, author TEXT NOT NULL, made TEXT NOT NULL, score REAL, details TEXT NOT NULL
);
CREATE TABLE terms (feature INTEGER NOT NULL, term TEXT NOT NULL, z REAL NOT NULL);
CREATE INDEX terms_feature ON terms (feature);
CREATE TABLE caption_words (word TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5 (label, terms, tokenize = 'unicode61', prefix = '2 3');
"""
#: The statistics of a feature (`feature_statistics.summary` makes them, `feature_records.Facts` has them).
STATISTICS = ("density", "pictures", "mean", "std", "largest", "first_step", "last_step", "peak_step")
#: What a row of `features` and `search` holds, in the order of `Facts` but for `name` in place of `sae`.
_FACTS = f"features.id, sae, block, number, {', '.join(STATISTICS)}, features.label, author, score"
#: What a search can be ordered by, and the SQL of it.
ORDERS = {
    "density": "density DESC",
    "rarest": "density ASC",
    "activation": "largest DESC",
    "label score": "score DESC NULLS LAST",
    "index": "features.id ASC",
}
#: Rank of a search by words: BM25 (smaller is better) with labels ten times as heavy as caption words, for
#: a label whose held-out score is chance a quarter of that for one that foretells perfectly.
_BEST_MATCH = "bm25(words, 10.0, 1.0) * (0.25 + 1.5 * MAX(COALESCE(score, 0.5) - 0.5, 0)), features.id"

#: What `Atlas` asks: for features (a list of ids as JSON), and for one of them, its words and its labels,
#: newest first; for captions of images (numbers as JSON); for a line on every feature.
FEATURES = f"SELECT {_FACTS} FROM features WHERE features.id IN (SELECT value FROM json_each(?))"
TERMS = "SELECT term, z FROM terms WHERE feature = ? ORDER BY z DESC"
LABELS = "SELECT text, kind, author, made, score FROM labels WHERE feature = ? ORDER BY id DESC"
CAPTIONS = "SELECT id, prompt, seed FROM images WHERE id IN (SELECT value FROM json_each(?))"
SUMMARY = "SELECT sae, density, label, score FROM features"
#: Labels by people and models, oldest first: number of the SAE, index of the feature, and the label.
GIVEN_LABELS = (
    "SELECT sae, number, text, kind, labels.author, made, labels.score, details "
    "FROM labels JOIN features ON features.id = feature WHERE kind != 'words' ORDER BY labels.id"
)
#: Labels of SAEs that are not in the atlas, oldest first (`given_labels.GivenLabel`); whether there is such a
#: table (not in atlases of versions before); all labels of features.
KEPT_LABELS = (
    "SELECT identity, sae, number, text, kind, author, made, score, details FROM kept_labels ORDER BY rowid"
)
HAS_KEPT_LABELS = "SELECT 1 FROM sqlite_master WHERE name = 'kept_labels'"
#: Words that a search can find, and how many features have each; what the query is of, made first.
VOCABULARY_TABLE = "CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab('main', 'words', 'row')"
VOCABULARY = "SELECT term, doc FROM temp.vocabulary"
#: Whether a word of a caption begins so (a word, and the first text that is not one of these); whether there
#: is a table of these words (not in atlases of versions before); what goes through all captions instead.
IN_CAPTION = "SELECT 1 FROM caption_words WHERE word >= ? AND word < ? LIMIT 1"
HAS_CAPTION_WORDS = "SELECT 1 FROM sqlite_master WHERE name = 'caption_words'"
IN_ANY_CAPTION = "SELECT 1 FROM images WHERE prompt LIKE ? LIMIT 1"
ALL_LABELS = "SELECT feature, text, kind, author, made, score, details FROM labels"
REMOVE_LABELS = "DELETE FROM labels WHERE feature = ? AND kind = ? AND author = ?"
#: Columns of each table, as `insert` takes them.
COLUMNS = {
    "images": ("id", "prompt", "seed"),
    "features": ("id", "sae", "block", "number", *STATISTICS),
    "labels": ("feature", "text", "kind", "author", "made", "score", "details"),
    "kept_labels": ("identity", "sae", "number", "text", "kind", "author", "made", "score", "details"),
    "terms": ("feature", "term", "z"),
    "caption_words": ("word",),
}

#: Features that one search gives.
SearchLimit = Annotated[Whole, Ge(1), Le(100_000)]
#: A value of a cell.
Cell = str | int | float | None
#: id, number of the SAE, block, index, statistics, label, author, score.
FactsRow = tuple[Any, ...]


#: SQLite's codes of what the disk refuses, as the system's.
_REFUSALS = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
}


@contextmanager
def connect(path: Path, write: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection for one query or one transaction: committed at the end, rolled back on an exception.

    Raises OSError for what the disk refuses to write.
    """
    uri = f"{path.absolute().as_uri()}?mode={'rwc' if write else 'ro'}"
    connection = sqlite3.connect(uri, uri=True, timeout=10)
    try:
        with connection:
            yield connection
    except sqlite3.OperationalError as error:
        number = _REFUSALS.get(error.sqlite_errorcode & 0xFF)
        if not write or number is None:
            raise
        raise OSError(number, os.strerror(number)) from error
    finally:
        connection.close()


def damaged(path: Path, reason: object) -> UnboxError:
    """The error for a database that cannot be read."""
    return UnboxError(f"{path} cannot be read ({reason}): build it again with `unbox atlas`")


def check_whole(path: Path) -> None:
    """Raises UnboxError for a file that is no database, or shorter than it says: SQLite reads it until it
    comes to what is missing."""
    with open(path, "rb") as file:
        header = file.read(100)
    page, pages = int.from_bytes(header[16:18]), int.from_bytes(header[28:32])
    if not header.startswith(b"SQLite format 3\0"):
        raise damaged(path, "it is no database")
    if path.stat().st_size < pages * (65536 if page == 1 else page):
        raise damaged(path, "it is cut off")


def rows(path: Path, query: str, values: Sequence[Cell] = ()) -> list[tuple]:
    """Answer of a query. Raises UnboxError where the database is damaged, truncated, or none."""
    try:
        with connect(path) as connection:
            return connection.execute(query, values).fetchall()
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise damaged(path, error) from error


def vocabulary(path: Path) -> dict[str, int]:
    """Words that a search can find -> how many features have each. Raises as `rows` does."""
    try:
        with connect(path) as connection:
            connection.execute(VOCABULARY_TABLE)
            return dict(connection.execute(VOCABULARY).fetchall())
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise damaged(path, error) from error


def now() -> str:
    """The present time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def insert(connection: sqlite3.Connection, table: str, rows: Iterable[Sequence[Cell]]) -> None:
    """Insert rows of COLUMNS into a table."""
    columns = COLUMNS[table]
    marks = ", ".join("?" * len(columns))
    connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)


def add_features(
    connection: sqlite3.Connection, sae: int, block: str, start: int, statistics: Mapping[str, np.ndarray]
) -> None:
    """The features of SAE number `sae`, numbered from `start` on; `statistics` (n,) each, all STATISTICS."""
    lists = [statistics[name].tolist() for name in STATISTICS]
    rows = ((start + i, sae, block, i, *row) for i, row in enumerate(zip(*lists, strict=True)))
    insert(connection, "features", rows)
    connection.execute(
        "UPDATE features SET first_step = NULL, last_step = NULL, peak_step = NULL WHERE density = 0"
    )


def choose_labels(connection: sqlite3.Connection, feature: int | None = None) -> None:
    """Show each feature under its newest label of the first kind that it has, and make that searchable."""
    rank = " ".join(f"WHEN '{kind}' THEN {i}" for i, kind in enumerate(KINDS))
    which = "" if feature is None else f"WHERE id = {int(feature)}"
    best = {
        column: f"(SELECT {column} FROM labels WHERE feature = features.id "
        f"ORDER BY CASE kind {rank} END, id DESC LIMIT 1)"
        for column in ("text", "author", "score")
    }
    connection.execute(
        f"UPDATE features SET label = COALESCE({best['text']}, ''), "
        f"author = COALESCE({best['author']}, ''), score = {best['score']} {which}"
    )
    gone = "" if feature is None else f"WHERE rowid = {int(feature)}"
    connection.execute(f"DELETE FROM words {gone}")
    connection.execute(
        "INSERT INTO words (rowid, label, terms) SELECT id, "
        "(SELECT COALESCE(group_concat(text, ' '), '') FROM labels WHERE feature = features.id), "
        "(SELECT COALESCE(group_concat(term, ' '), '') FROM terms WHERE feature = features.id) "
        f"FROM features {which}"
    )


def search(
    text: str, among: Filter, saes: Sequence[str], order: str | None, limit: int, offset: int,
    some: bool = False,
) -> tuple[str, list[Cell]]:  # fmt: skip
    """The query of `query.Atlas.search`, and its values: features by words of labels and captions, or by
    their index. `some`: one of the words is enough."""
    text = checked(Text, "text", text, "search")
    if order is not None and order not in ORDERS:
        raise FieldError("search", "order", order, unknown(str(order), [*ORDERS]))
    query, text = match(text, some), text.strip()
    conditions, source, ranking = _conditions(among, saes), "features", ORDERS[order or "density"]
    if text.isascii() and text.isdigit():
        conditions.append(("number = ?", (int(text[:15]),)))
    elif query:
        conditions.insert(0, ("words MATCH ?", (query,)))
        source = "words JOIN features ON features.id = words.rowid"
        ranking = ORDERS[order] if order else _BEST_MATCH
    elif text:
        conditions.append(("FALSE", ()))
    where, values = _where(conditions)
    return (
        f"SELECT {_FACTS} FROM {source} {where} ORDER BY {ranking} LIMIT ? OFFSET ?",
        [*values, checked(SearchLimit, "limit", limit, "search"), checked(Index, "offset", offset, "search")],
    )


def passing(among: Filter, saes: Sequence[str]) -> tuple[str, list[Cell]]:
    """The query for the ids of the features that pass a filter, and its values."""
    where, values = _where(_conditions(among, saes))
    return f"SELECT id FROM features {where}", values


def match(query: str, some: bool = False) -> str:
    """Full-text query of plain words: each must occur, or with `some` one of them; the last may go on. Empty
    when there is no word."""
    words = words_of(query)
    join = " OR " if some else " "
    return join.join([*(f'"{word}"' for word in words[:-1]), *(f'"{word}"*' for word in words[-1:])])


def plain_words(text: str) -> list[str]:
    """The words of a text, whatever is between them."""
    return "".join(c if c.isalnum() else " " for c in text).split()


def add_caption_words(connection: sqlite3.Connection, captions: Iterable[str]) -> None:
    """The words of all captions, each once: as much memory as there are different ones."""
    different = {word.lower() for caption in captions for word in plain_words(caption)}
    insert(connection, "caption_words", ((word,) for word in sorted(different)))


def words_of(query: str) -> list[str]:
    """The words that a query asks for, 32 at most: without those that label nothing, if it has others."""
    words = plain_words(query)[:32]
    return [word for word in words if word.lower() not in {*STOP, "not"}] or words


def _conditions(among: Filter, saes: Sequence[str]) -> list[tuple[str, Sequence[Cell]]]:
    """SQL and values of each condition of a filter; `saes`: names of the atlas's SAEs, in order."""
    given = {
        "sae = ?": among.sae and [saes.index(among.sae)],
        "block = ?": among.block and [among.block],
        "density BETWEEN ? AND ?": among.density and [float(bound) for bound in among.density],
        "peak_step = ?": among.step is not None and [among.step],
        "features.label != ''": among.labelled and [],
    }
    return [(sql, values) for sql, values in given.items() if isinstance(values, list)]


def _where(conditions: Sequence[tuple[str, Sequence[Cell]]]) -> tuple[str, list[Cell]]:
    where = f"WHERE {' AND '.join(sql for sql, _ in conditions)}" if conditions else ""
    return where, [value for _, values in conditions for value in values]
