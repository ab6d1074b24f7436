"""The atlas's SQLite: features, labels, words for full-text search, captions. Functions over connections."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
CREATE TABLE terms (feature INTEGER NOT NULL, term TEXT NOT NULL, z REAL NOT NULL);
CREATE INDEX terms_feature ON terms (feature);
CREATE VIRTUAL TABLE words USING fts5 (label, terms, tokenize = 'unicode61', prefix = '2 3');
"""


@contextmanager
def connect(path: Path, write: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection for one query or one transaction: committed at the end, rolled back on an exception."""
    uri = f"{path.absolute().as_uri()}?mode={'rwc' if write else 'ro'}"
    connection = sqlite3.connect(uri, uri=True, timeout=10)
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def insert(connection: sqlite3.Connection, table: str, columns: Sequence[str], rows: Iterable[Any]) -> None:
    """Insert rows (tuples in the order of `columns`)."""
    places = ", ".join("?" * len(columns))
    connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)


def choose_labels(connection: sqlite3.Connection, feature: int | None = None) -> None:
    """Show each feature under its newest label of the first kind that it has, and make that searchable."""
    rank = " ".join(f"WHEN '{kind}' THEN {i}" for i, kind in enumerate(KINDS))
    one = "" if feature is None else f"WHERE id = {int(feature)}"
    best = (
        "(SELECT {column} FROM labels WHERE feature = features.id "
        f"ORDER BY CASE kind {rank} END, id DESC LIMIT 1)"
    )
    connection.execute(
        f"UPDATE features SET label = COALESCE({best.format(column='text')}, ''), "
        f"author = COALESCE({best.format(column='author')}, ''), score = {best.format(column='score')} {one}"
    )
    gone = "" if feature is None else f"WHERE rowid = {int(feature)}"
    connection.execute(f"DELETE FROM words {gone}")
    connection.execute(
        "INSERT INTO words (rowid, label, terms) SELECT id, "
        "(SELECT COALESCE(group_concat(text, ' '), '') FROM labels WHERE feature = features.id), "
        "(SELECT COALESCE(group_concat(term, ' '), '') FROM terms WHERE feature = features.id) "
        f"FROM features {one}"
    )


def match(query: str) -> str:
    """Full-text query of plain words: each must occur, the last may go on. Empty when there is no word."""
    words = ["".join(c if c.isalnum() else " " for c in word).split() for word in query.split()]
    flat = [word for group in words for word in group][:32]
    return " ".join(f'"{word}"' for word in flat[:-1]) + (f' "{flat[-1]}"*' if flat else "")
