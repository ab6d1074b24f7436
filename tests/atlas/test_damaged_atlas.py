"""What an atlas refuses: sizes, searches, labels, and files that are not what a build wrote."""

import json
import shutil
import sqlite3

import h5py
import pytest

from unbox.atlas import Atlas, AtlasPlan, Filter, build, set_label
from unbox.atlas.atlas_files import DATABASE, INDEX, RELATIONS
from unbox.atlas.encode_pass import grid_of
from unbox.atlas.feature_statistics import Examples, Tally, pass_bytes
from unbox.atlas.vlm_labels import Endpoint
from unbox.errors import UnboxError


@pytest.fixture
def own(atlas, tmp_path):
    """A copy of the planted atlas, to damage: its folder of data."""
    shutil.copytree(atlas.path, tmp_path / "atlas")
    return Atlas.open(tmp_path / "atlas").folder


REFUSED = [
    (AtlasPlan, {"top": 0}, "AtlasPlan: top = 0: should be at least 1"),
    (AtlasPlan, {"bins": 2.5}, "AtlasPlan: bins = 2.5: should be a whole number"),
    (AtlasPlan, {"seed": -1}, "AtlasPlan: seed = -1: should be at least 0"),
    (Filter, {"density": (0.5, 0.1)}, r"Filter: density = \(0.5, 0.1\): should be the smaller share"),
    (Filter, {"density": (0, 2)}, r"Filter: density\[1\] = 2: should be at most 1"),
    (Filter, {"density": (0, float("nan"))}, "should be a finite number"),
    (Filter, {"density": 3}, "density = 3"),
    (Filter, {"step": -1}, "Filter: step = -1: should be at least 0"),
    (Filter, {"labelled": "yes"}, "labelled = 'yes': should be true or false"),
    (Endpoint, {"url": "ftp://x", "model": "m"}, "url = 'ftp://x': should be an address like"),
    (Endpoint, {"url": "http://x:99999999", "model": "m"}, "should be an address like"),
    (Endpoint, {"url": "http://a b/v1", "model": "m"}, "should be an address like"),
    (Endpoint, {"url": "http://[x/v1", "model": "m"}, "should be an address like"),
    (Endpoint, {"url": "http://x/v1", "model": ""}, "model = ''"),
    (Endpoint, {"url": "http://x/v1", "model": "m", "key": "a\nb"}, "key = "),
]


@pytest.mark.parametrize(("kind", "given", "message"), REFUSED)
def test_refused(kind, given, message):
    with pytest.raises(UnboxError, match=message):
        kind(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"limit": 0}, "search: limit = 0: should be at least 1"),
        ({"limit": -1}, "search: limit = -1: should be at least 1"),
        ({"limit": 1.5}, "search: limit = 1.5: should be a whole number"),
        ({"offset": -1}, "search: offset = -1: should be at least 0"),
        ({"offset": 2**70}, "search: offset = 1180591620717411303424: should be less than"),
        ({"order": "desnity"}, r"search: order = 'desnity': is unknown, is it density\?"),
        ({"order": 3}, "search: order = 3: is unknown"),
        ({"text": 3}, "search: text = 3: should be a text"),
        ({"text": "\0"}, "search: text = .*: should not hold the control character"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(atlas, given, message):
    with pytest.raises(UnboxError, match=message):
        atlas.search(**given)


@pytest.mark.parametrize("feature", [1.5, -1, 10**20, "x", "mid.0/" + "9" * 5000, None, True])
def test_a_feature_that_there_is_not_is_refused(atlas, feature):
    with pytest.raises(UnboxError):
        atlas.feature(feature)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"score": 1.5}, "label: score = 1.5: should be at most 1"),
        ({"score": float("nan")}, "label: score = nan"),
        ({"kind": "humann"}, r"label: kind = 'humann': is unknown, is it human\?"),
        ({"text": 3}, "label: text = 3: should be a text"),
        ({"author": "\x1b[2J"}, "label: author = .*: should not hold the control character"),
    ],
)
def test_a_label_that_makes_no_sense_is_refused(own, given, message):
    with pytest.raises(UnboxError, match=message):
        set_label(Atlas.open(own.parent), 0, **{"text": "red", "author": "me", **given})


def test_memory_of_an_atlas_is_asked_for_before_anything_is_read(store, saes, tmp_path):
    with pytest.raises(UnboxError, match=r"1,000,000,000 top images of each, would take .* of memory"):
        build(store, saes, tmp_path / "out", plan=AtlasPlan(top=10**9), progress=False)
    assert not (tmp_path / "out").exists()


def test_memory_is_at_least_that_of_the_arrays(store, saes):
    plan = AtlasPlan(places=1)
    for block, sae in saes.items():
        grid, images = grid_of(store[block]), len(store)
        tally = Tally.empty(sae.latents, grid, plan, min(plan.probes, images // 4))
        examples = Examples.empty(sae.latents, grid.cells, plan)
        made = [*tally.arrays().values(), *examples.arrays().values(), *examples.arrays().values()]
        size = sum(array.nbytes for array in made)
        assert size <= pass_bytes(sae.latents, grid, plan, images, sae.k) < 3 * size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "../x"}, r"data = '\.\./x': should be a name"),
        ({"data": 3}, "data = 3: should be a name"),
        ({"saes": 3}, r"saes\[0\] = 3: should be an object"),
        ({"saes": []}, r"saes = \(\): should hold at least one"),
        ({"saes": [{"name": "a"}]}, "block is missing"),
        ({"plan": {"top": 0}}, "top = 0: should be at least 1"),
        ({"store": {}}, "digest is missing"),
        ({"identities": {"mid.0": 3}}, "identities = .*: should be those of"),
        ({"identities": None}, "identities = None: should be an object"),
        ({"more": 1}, "more = 1: is unknown"),
        ({"version": "1"}, "build it again"),
    ],
)
def test_a_crafted_index_is_refused(own, change, message):
    index = json.loads((own.parent / INDEX).read_text())
    (own.parent / INDEX).write_text(json.dumps({**index, **change}))
    with pytest.raises(UnboxError, match=message):
        Atlas.open(own.parent)


def everything(folder):
    """Ask an atlas for all that it can answer about a feature."""
    atlas = Atlas.open(folder)
    atlas.search("red"), atlas.feature(0)
    atlas.examples(0, "top")
    atlas.examples(0, "interval", 0)
    atlas.cover(0), atlas.histogram(0), atlas.life(0), atlas.by_branch(0), atlas.by_position(0)
    atlas.related(0, "neighbours"), atlas.related(0, "elsewhere")
    atlas.labels(0), atlas.words(0), atlas.summary()


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
@pytest.mark.parametrize("name", [DATABASE, "000.h5", RELATIONS])
def test_a_truncated_file_is_named(own, name, share):
    data = (own / name).read_bytes()
    (own / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UnboxError, match=f"{name}.*again with `unbox atlas`"):
        everything(own.parent)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE features SET sae = 99",
        "UPDATE features SET density = 'much'",
        "UPDATE features SET label = x'ff'",
        "DELETE FROM features WHERE id = 0",
        "DELETE FROM images",
        "DROP TABLE labels",
        "DROP TABLE words",
    ],
)
def test_a_crafted_database_is_refused(own, change):
    with sqlite3.connect(own / DATABASE) as connection:
        connection.execute(change)
    connection.close()
    with pytest.raises(UnboxError, match=DATABASE):
        everything(own.parent)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale", [1.0]),
        ("top/image", [[0]]),
        ("top/maps", 3.0),
        ("by_step", [[b"x"]]),
        ("neighbours/other", None),
        ("histogram", None),
    ],
)
def test_crafted_arrays_are_refused(own, name, value):
    with h5py.File(own / "000.h5", "r+") as file:
        del file[name]
        if value is not None:
            file[name] = value
    with pytest.raises(UnboxError, match=r"000\.h5 is damaged or missing"):
        everything(own.parent)


def test_crafted_sides_are_refused(own):
    for sides in ([0, 4], [4], ["a", "b"], [2**40, 2**40]):
        with h5py.File(own / "000.h5", "r+") as file:
            file.attrs["map_shape"] = sides
        with pytest.raises(UnboxError, match=r"000\.h5 is damaged or missing"):
            everything(own.parent)
