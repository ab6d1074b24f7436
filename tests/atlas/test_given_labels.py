"""Labels by people and models belong to an SAE: no build of an atlas deletes them or shows them elsewhere."""

import json
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace

import pytest

from tests.atlas.planted import planted_store
from unbox.atlas import Atlas, AtlasPlan, build, given_labels, set_label
from unbox.atlas.atlas_files import DATABASE, INDEX
from unbox.atlas.encode_pass import former_pass_key
from unbox.errors import UnboxError

PLAN = AtlasPlan(
    top=2, random=2, intervals=2, per_interval=1, decoys=1, caption_images=4, probes=4, places=64
)
LABELS = [("my own word", "human", "me"), ("moons", "model", "vlm"), ("another", "human", "you")]


def built(out, store, saes, plan=PLAN):
    return Atlas.open(build(store, saes, out, plan=plan, progress=False))


def shown(atlas, feature="mid.0/2"):
    """Texts of the labels that people and models gave, newest first."""
    return [label.text for label in atlas.labels(feature) if label.kind != "words"]


TEXTS = [text for text, *_ in reversed(LABELS)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return planted_store(tmp_path_factory.mktemp("small") / "store", 16)


@pytest.fixture
def out(tmp_path, store, saes):
    """An atlas of mid.0 whose feature 2 has labels."""
    atlas = built(tmp_path / "atlas", store, {"mid.0": saes["mid.0"]})
    for text, kind, author in LABELS:
        set_label(atlas, "mid.0/2", text, author, kind=kind, score=0.75, details={"seed": 3})
    return tmp_path / "atlas"


def test_another_store_and_other_sizes(out, store, saes, tmp_path):
    mid = {"mid.0": saes["mid.0"]}
    before = Atlas.open(out).labels("mid.0/2")
    other = planted_store(tmp_path / "other", 12)
    for given in ((store, mid, replace(PLAN, top=7)), (other, mid), (store, saes), (store, mid)):
        atlas = built(out, *given)
        assert [each for each in atlas.labels("mid.0/2") if each.kind != "words"] == before[:3]
        assert atlas.feature("mid.0/2").label == "another"
        assert atlas.search("my own")[0].name == "mid.0/2"
        assert atlas.kept_labels() == []
    assert len(list(out.glob("data-*"))) == 1


def test_an_sae_that_is_removed_and_comes_back(out, store, saes):
    atlas = built(out, store, {"up.0.0": saes["up.0.0"]})
    assert [(each.sae, each.index, each.label.text) for each in atlas.kept_labels()] == [
        ("mid.0", 2, text) for text in reversed(TEXTS)
    ]
    assert shown(atlas, "up.0.0/2") == []
    built(out, store, {"up.0.0": saes["up.0.0"]}, replace(PLAN, top=7))
    renamed = {"first": saes["up.0.0"], "mine": replace(saes["mid.0"], name="mine", meta={"a": 1})}
    atlas = built(out, store, renamed)
    assert shown(atlas, "mine/2") == TEXTS
    assert atlas.kept_labels() == []


def test_labels_of_a_changed_sae_are_kept_and_not_shown(out, store, saes):
    """`tests/sae/test_sae_identity.py` has what changes an SAE."""
    mid = saes["mid.0"]
    changed = replace(mid, stats=replace(mid.stats, mean_active=mid.stats.mean_active * 10))
    atlas = built(out, store, {"mid.0": changed})
    assert shown(atlas) == []
    assert {each.identity for each in atlas.kept_labels()} == {mid.identity}
    set_label(atlas, "mid.0/2", "of the changed one", "me")
    again = built(out, store, {"mid.0": mid})
    assert shown(again) == TEXTS
    assert [each.label.text for each in again.kept_labels()] == ["of the changed one"]


def test_what_is_labelled_while_an_atlas_is_built_is_not_lost(out, store, saes, monkeypatch):
    """The old atlas is open in an explorer until the new one is whole."""
    atlas, real = Atlas.open(out), given_labels.put_labels

    def while_filling(connection, labels, into):
        real(connection, labels, into)
        if (out / atlas.index["data"]).exists() and "late" not in shown(atlas):
            set_label(atlas, "mid.0/2", "late", "me")

    monkeypatch.setattr(sys.modules["unbox.atlas.build"], "put_labels", while_filling)
    assert shown(built(out, store, saes)) == ["late", *TEXTS]


def written_before(out, store, sae):
    """The atlas as a version before left it: no identities, the key of weights, k and threshold."""
    index = json.loads((out / INDEX).read_text())
    del index["identities"]
    index["saes"][0]["key"] = former_pass_key(sae, store[sae.block].digest, PLAN.to_json())
    (out / INDEX).write_text(json.dumps(index))
    with closing(sqlite3.connect(out / index["data"] / DATABASE)) as connection:
        connection.execute("DROP TABLE kept_labels")


def test_labels_in_an_atlas_of_a_version_before(out, store, saes, tmp_path):
    mid = saes["mid.0"]
    written_before(out, store, mid)
    atlas = built(
        out, planted_store(tmp_path / "other", 12), {"up.0.0": saes["up.0.0"]}, replace(PLAN, top=7)
    )
    assert len(atlas.kept_labels()) == 3
    atlas = built(out, store, {"mid.0": replace(mid, k=3)})
    assert len(atlas.kept_labels()) == 3
    atlas = built(out, store, saes)
    assert shown(atlas) == TEXTS
    assert atlas.kept_labels() == []


def test_an_atlas_of_a_version_before_stands_while_its_sae_does(out, store, saes):
    mid = saes["mid.0"]
    written_before(out, store, mid)
    key = Atlas.open(out).saes[0].key
    assert built(out, store, saes).saes[0].key == key
    assert built(out, store, {"mid.0": mid}).saes[0].key == key
    changed = replace(mid, stats=replace(mid.stats, max=mid.stats.max * 2))
    assert built(out, store, {"mid.0": changed}).saes[0].key != key


def test_a_damaged_database_is_named_and_nothing_is_lost(out, store, saes):
    path = out / Atlas.open(out).index["data"] / DATABASE
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UnboxError, match="move the folder away"):
        built(out, store, saes)
    assert path.stat().st_size == 3000
