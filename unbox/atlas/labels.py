"""Labels that people and models give, kept in the atlas beside those made of words."""

import json
import re
import shutil
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path

from activation_store import publish_file
from unbox.atlas import database
from unbox.atlas.query import Atlas
from unbox.errors import FieldError, UnboxError
from unbox.json_types import JSON
from unbox.validation import Share, Text, checked, unknown

#: Longest label and author, in characters.
LONGEST = 200
#: What joins letters and emoji: not printed, and part of a text.
_JOINERS = re.compile("[\u200c\u200d]")
_FIRST = threading.Lock()


def set_label(
    atlas: Atlas,
    feature: str | int,
    text: str,
    author: str,
    *,
    kind: str = "human",
    score: float | None = None,
    details: Mapping[str, JSON] | None = None,
) -> None:
    """Add a label; the newest of people goes before a model's, and that before words. Older ones are kept.

    An empty text takes this author's labels of the feature away. Raises UnboxError for a text that is too
    long or has control characters, and where the atlas cannot be written to.
    """
    number = atlas.feature(feature).id
    text, author = (
        " ".join(checked(Text, name, value, "label").split())
        for name, value in (("text", text), ("author", author))
    )
    author = author or "someone"
    if kind not in database.KINDS:
        raise FieldError("label", "kind", kind, unknown(str(kind), database.KINDS))
    score = None if score is None else checked(Share, "score", score, "label")
    if max(len(text), len(author)) > LONGEST:
        raise UnboxError(f"a label has at most {LONGEST} characters; this one has {len(text)}")
    if not _JOINERS.sub("", text + author).isprintable():
        raise UnboxError("a label holds characters that cannot be printed")
    try:
        with database.connect(writable(atlas), write=True) as connection:
            if text:
                given = json.dumps(dict(details or {}), allow_nan=False)
                row = (number, text, kind, author, database.now(), score, given)
                database.insert(connection, "labels", [row])
            else:
                connection.execute(database.REMOVE_LABELS, [number, kind, author])
            database.choose_labels(connection, number)
    except (sqlite3.DatabaseError, OSError) as error:
        raise UnboxError(f"the label cannot be kept in {atlas.database_path}: {error}; copy the atlas to a "
                         "folder that you can write to and open it there") from error  # fmt: skip


def writable(atlas: Atlas) -> Path:
    """The database that labels are written to; copied first where the atlas itself is not to be changed."""
    with _FIRST:
        if atlas.label_copy is not None and not atlas.label_copy.is_file():
            atlas.label_copy.parent.mkdir(parents=True, exist_ok=True)
            with publish_file(atlas.label_copy) as temporary:
                shutil.copyfile(atlas.database_path, temporary)
    return atlas.database_path
