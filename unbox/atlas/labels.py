"""Labels that people and models give, kept in the atlas beside those made of words."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from unbox.atlas import database
from unbox.atlas.atlas import Atlas
from unbox.words import UnboxError

#: Longest label and author, in characters.
LONGEST = 200


def set_label(
    atlas: Atlas,
    feature: str | int,
    text: str,
    author: str,
    *,
    kind: str = "human",
    score: float | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Add a label; the newest of people goes before a model's, and that before words. Older ones are kept.

    An empty text takes this author's labels of the feature away. Raises UnboxError for a text that is too
    long or has control characters.
    """
    number = atlas.feature(feature).id
    text, author = " ".join(text.split()), " ".join(author.split()) or "someone"
    if kind not in database.KINDS:
        raise UnboxError(f"no kind of label '{kind}'; there are {', '.join(database.KINDS)}")
    if max(len(text), len(author)) > LONGEST:
        raise UnboxError(f"a label has at most {LONGEST} characters; this one has {len(text)}")
    if not (text + author).isprintable():
        raise UnboxError("a label holds characters that cannot be printed")
    with database.connect(atlas.database_path, write=True) as connection:
        if text:
            row = (number, text, kind, author, now(), score, json.dumps(dict(details or {}), allow_nan=False))
            columns = ("feature", "text", "kind", "author", "made", "score", "details")
            database.insert(connection, "labels", columns, [row])
        else:
            connection.execute(
                "DELETE FROM labels WHERE feature = ? AND kind = ? AND author = ?", [number, kind, author]
            )
        database.choose_labels(connection, number)


def now() -> str:
    """The present time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
