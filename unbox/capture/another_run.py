"""Whether the store in a folder is of the run that is asked for; if it is not, what differs, by name."""

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from activation_store import Schema
from activation_store.listing import read_schema
from unbox.json_types import JSON
from unbox.model_identity import identity_facts
from unbox.models.sampling_options import prompt_options
from unbox.run_folder import refuse_others


def continued(schema: Schema, path: str | os.PathLike) -> Schema:
    """The settings with which a run goes on in the folder at `path`: `schema` where it holds no store.

    A store of the same model (`Model.identity`) whose facts are told in other words, of a renamed system
    say, goes on in its own. Raises UnboxError, naming each fact, where it is of another run.
    """
    if not (Path(path) / "store.json").exists():
        return schema
    kept = read_schema(Path(path))
    refuse_another(Path(path), kept, schema)
    return kept


def refuse_another(path: Path, kept: Schema, schema: Schema, but: Collection[str] = ()) -> None:
    """Raise UnboxError, naming each fact, where settings are of another run than those kept at `path`; facts
    named in `but` may differ."""
    old, new = _parts(kept), _parts(schema)
    every = [name for name in {**old, **new} if name not in but]
    refuse_others(path, "collect", {n: old.get(n) for n in every}, {n: new.get(n) for n in every})


def _parts(schema: Schema) -> dict[str, JSON]:
    """What must be the same, by the names of the options; of a model, what its identity is of."""
    provenance = dict(schema.provenance)
    model = provenance.pop("model", None)
    facts = replace(schema, provenance={}).to_json()
    return {
        **({"model": identity_facts(model)} if isinstance(model, dict) else {}),
        **vars(prompt_options(provenance)),
        **provenance,
        "blocks": {name: "x".join(map(str, shape)) for name, shape in schema.blocks.items()},
        "kept steps": list(schema.steps),
        **{f"kept steps of {name}": list(site.steps) for name, site in schema.sites.items() if site.steps},
        "branches": list(schema.branches),
        **{name: facts[name] for name in ("positions", "shard_samples")},
        "store_dtype": schema.dtype,
    }
