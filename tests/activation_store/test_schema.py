"""Stores with sites that have a layout, a stream, steps and branches of their own."""

import json

import numpy as np
import pytest

from activation_store import Schema, SiteLayout, Store, StoreError, Writer, merge, subset, verify
from tests.activation_store import fakes

SITES = {
    "up.1.0": SiteLayout(steps=(4,)),
    "text.2.5": SiteLayout("tokens", "text", (0,), ("cond",)),
}


def mixed(**fields):
    """Maps at two steps and branches; maps of a second network at another step; tokens once an image."""
    blocks = {"mid.0": (2, 2, 8), "up.1.0": (4, 4, 4), "text.2.5": (1, 7, 3)}
    return fakes.schema(blocks=blocks, sites=SITES, **fields)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("positions", [None, 3])
def test_sites_with_steps_branches_and_layouts_of_their_own(tmp_path, dtype, positions):
    kind = mixed(dtype=dtype, positions=positions)
    places = {b: np.arange(kind.grid(b)[0] * kind.grid(b)[1], dtype=np.uint32)[None] for b in kind.blocks}
    with Writer(tmp_path / "s", kind) as writer:
        for i in range(6):
            kept = None if positions is None else places
            writer.append([fakes.sample(i)], fakes.updates(kind, i), positions=kept)
    store = Store.open(tmp_path / "s")
    assert store.schema == kind
    grids = {"mid.0": (2, 2), "up.1.0": (4, 4), "text.2.5": (1, 7)}
    grids = grids if positions is None else dict.fromkeys(grids, (1, 3))
    assert store["mid.0"].shape == (6, 2, 2, *grids["mid.0"], 8)
    assert store["up.1.0"].shape == (6, 1, 2, *grids["up.1.0"], 4)
    assert store["text.2.5"].shape == (6, 1, 1, *grids["text.2.5"], 3)
    assert (store["up.1.0"].steps, store["text.2.5"].branches) == ((4,), ("cond",))
    for i in range(6):
        for block, wanted in fakes.updates(kind, i).items():
            bound = 0.51 / 127 * np.abs(wanted[0]).max(-1, keepdims=True) if dtype == "int8" else 0
            assert (np.abs(store[block].read(i) - wanted[0]) <= bound).all()
    rows = np.concatenate(list(store["text.2.5"].batches(5)))
    assert rows.shape == (len(store["text.2.5"]), 3)
    assert np.allclose(rows.sum(), store["text.2.5"].read_images(range(6)).sum(), atol=1e-3)
    assert store["text.2.5"].moments.count == len(rows)
    assert verify(tmp_path / "s").good


def test_a_subset_keeps_of_each_site_the_steps_that_it_has(tmp_path):
    store = fakes.make(tmp_path / "s", 6, **{"blocks": mixed().blocks, "sites": SITES})
    part = subset(store.path, tmp_path / "part", steps=[1, 4], blocks=["mid.0", "up.1.0"], branches=["cond"])
    assert part["mid.0"].steps == (1,)
    assert part["up.1.0"].steps == (4,)
    for block in part.blocks:
        wanted = store[block].filter(steps=part[block].steps, branches="cond").read(4)
        assert np.array_equal(part[block].read(4), wanted)
    assert subset(store.path, tmp_path / "tokens", blocks=["text.2.5"])["text.2.5"].shape[1:3] == (1, 1)
    assert len(merge([store.path, store.path], tmp_path / "both")) == 12
    with pytest.raises(StoreError, match="these rows have no step 1; they have 4"):
        subset(store.path, tmp_path / "none", steps=[1], blocks=["up.1.0"])
    with pytest.raises(StoreError, match="these rows have no step 1, 4; they have 0"):
        subset(store.path, tmp_path / "all", steps=[1, 4])


def test_the_settings_of_a_store_of_maps_alone_are_written_as_before():
    plain = fakes.schema()
    assert "sites" not in plain.to_json()
    assert fakes.schema(sites={"mid.0": SiteLayout()}) == plain
    assert Schema.from_json(json.loads(json.dumps(mixed().to_json()))) == mixed()


@pytest.mark.parametrize(
    ("sites", "said"),
    [
        ({"up.9": SiteLayout("tokens")}, "a layout of up.9, which is not a block"),
        ({"mid.0": SiteLayout("tokens")}, r"mid.0 has shape \(2, 2, 8\), not \(1, tokens, channels\)"),
        ({"mid.0": {"layout": "cloud"}}, "'cloud' is not a layout"),
        ({"mid.0": {"stream": "a/b"}}, "'a/b' is not a plain name"),
        ({"mid.0": {"steps": [3, 1]}}, r"steps \(3, 1\) are not ascending"),
        ({"mid.0": {"branches": []}}, "are not a set"),
        ({"mid.0": 7}, "the layout of mid.0 is not an object"),
        ({"mid.0": {"colour": 1}}, "malformed"),
    ],
)
def test_layouts_that_cannot_be_are_refused(sites, said):
    written = {**fakes.schema().to_json(), "sites": sites}
    with pytest.raises(StoreError, match=said):
        Schema.from_json(written)
