"""Labels by people and models, from one build of an atlas to the next: they are of an SAE, of nothing else.

Those of an SAE that is not in the new atlas (removed, or changed) are kept beside the others, under its
identity, and shown again when it is back.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from activation_store import digest
from activation_store.files import canonical
from unbox.atlas import atlas_files, database
from unbox.atlas.encode_pass import former_pass_key
from unbox.errors import UnboxError
from unbox.sae.model import SAE
from unbox.text_files import parse_json_text


class GivenLabel(NamedTuple):
    """A label by a person or a model, of one feature of an SAE."""

    identity: str
    """Of the SAE; of one in an atlas of a version before, JSON of what its key was made of."""
    sae: str
    number: int
    text: str
    kind: str
    author: str
    made: str
    score: float | None
    details: str


def given_labels(out: Path) -> list[GivenLabel]:
    """Every such label in the atlas at `out`, oldest first, shown there or not; none where there is no atlas.

    Raises UnboxError where the database is damaged, rather than let a build lose what is in it.
    """
    if not (out / atlas_files.INDEX).is_file():
        return []
    index = atlas_files.read_index(out)
    return labels_in(out / index["data"] / atlas_files.DATABASE, index)


def labels_in(path: Path, index: Mapping[str, Any]) -> list[GivenLabel]:
    """Every such label in a database; `index`: of its atlas."""
    names = [sae["name"] for sae in index["saes"]]
    identities = index.get("identities") or {sae["name"]: _former(index, sae) for sae in index["saes"]}
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            shown = connection.execute(database.GIVEN_LABELS).fetchall()
            tables = connection.execute(database.HAS_KEPT_LABELS).fetchall()
            kept = connection.execute(database.KEPT_LABELS).fetchall() if tables else []
    except sqlite3.DatabaseError as error:
        raise UnboxError(
            f"the labels in {path} cannot be read ({error}) and a new atlas would lose them: move the folder "
            "away, and build again"
        ) from error
    own = [GivenLabel(identities[names[sae]], names[sae], *label) for sae, *label in shown]
    return [GivenLabel(*row) for row in kept] + own


def put_labels(connection: sqlite3.Connection, labels: Sequence[GivenLabel], saes: Mapping[str, SAE]) -> None:
    """Give labels to the features of an atlas, numbered in the order of `saes`, and keep the others aside.
    Those that are there already are not doubled."""
    identities = {name: sae.identity for name, sae in saes.items()}
    starts, start = {}, 0
    for name, sae in saes.items():
        starts[name], start = start, start + sae.latents
    there = set(connection.execute(database.ALL_LABELS).fetchall())
    kept = set(connection.execute(database.KEPT_LABELS).fetchall())
    resolved = {label.identity: _resolved(label.identity, saes, identities) for label in labels}
    for label in labels:
        found = [name for name, identity in identities.items() if identity == resolved[label.identity]]
        for name in [label.sae] if label.sae in found else found:
            row = (starts[name] + label.number, *label[3:])
            if row not in there:
                database.insert(connection, "labels", [row])
        if not found and tuple(label) not in kept:
            database.insert(connection, "kept_labels", [tuple(label)])
    database.choose_labels(connection)


def _resolved(identity: str, saes: Mapping[str, SAE], identities: Mapping[str, str]) -> str:
    """The identity of the SAE that a version before named by its key, if it is one of these."""
    if not identity.startswith("{"):
        return identity
    facts = parse_json_text(identity, "a label's SAE")
    if not isinstance(facts, dict) or not facts.keys() >= {"rows", "plan", "block", "key"}:
        return identity
    for name, sae in saes.items():
        key = former_pass_key(sae, facts["rows"], facts["plan"])
        if (sae.block, key) == (facts["block"], facts["key"]):
            return identities[name]
    return identity


def _former(index: Mapping[str, Any], sae: Mapping[str, Any]) -> str:
    """What an SAE is told by in an atlas of a version before: the key of its pass, and what was in it."""
    store = index["store"]
    axes = [list(range(len(store[name]))) for name in ("steps", "branches")]
    rows = digest(canonical([store["digest"], sae["block"], *axes, None]))
    facts = {"key": sae["key"], "block": sae["block"], "rows": rows, "plan": index["plan"]}
    return canonical(facts).decode()
