"""Which images are kept from training."""

import json

import numpy as np
import pytest

from tests.activation_store.fakes import make
from tests.sae.worlds import noise
from unbox.errors import UnboxError
from unbox.sae import Spec, load_saes, train
from unbox.sae.held_out import chosen_by_hash, split


def test_the_hash_is_splitmix64():
    """The first outputs of the generator that is seeded with 0, which are those of its published code."""
    states = np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    for state, value in zip(states, published, strict=True):
        share = value / 2.0**64
        assert chosen_by_hash(np.array([state]), share * 1.0001)[0]
        assert not chosen_by_hash(np.array([state]), share * 0.9999)[0]


def test_a_share_is_held_out_everywhere_and_stays():
    """As many of the first as of the last tenth, and the same when the store has grown."""
    chosen = chosen_by_hash(np.arange(1_500_000), 0.02)
    tenths = chosen.reshape(10, -1).mean(1)
    assert tenths == pytest.approx(np.full(10, 0.02), rel=0.06)  # 4 standard deviations
    assert np.array_equal(chosen_by_hash(np.arange(1000), 0.02), chosen[:1000])


def test_images_of_a_store_and_rows_of_an_array(tmp_path):
    store = make(tmp_path / "acts", 40)
    for sources in ({"mid.0": store["mid.0"]}, {"mid.0": noise(400)}):
        learn, test, part = split(sources, {"mid.0"}, 0.25)
        assert part == 0.25
        assert len(learn["mid.0"]) + len(test["mid.0"]) == len(sources["mid.0"])
        assert 0.1 < len(test["mid.0"]) / len(sources["mid.0"]) < 0.4
    learn, test, _ = split({"mid.0": store["mid.0"]}, {"mid.0"}, 0.25)
    assert not set(learn["mid.0"].samples) & set(test["mid.0"].samples)
    assert list(test["mid.0"].samples) == np.flatnonzero(chosen_by_hash(np.arange(40), 0.25)).tolist()
    _, last, _ = split({"mid.0": store["mid.0"]}, {"mid.0"}, 0.25, "last")
    assert list(last["mid.0"].samples) == list(range(30, 40))


def test_a_run_of_a_version_before_keeps_its_last_images(tmp_path):
    store = make(tmp_path / "acts", 40)
    options = {"tokens": 500, "batch_size": 50, "held_out": 0.25, "progress": False}
    train(store, tmp_path / "saes", [Spec("mid.0", 2, 8)], **options)
    record = json.loads((tmp_path / "saes/run.json").read_text())
    assert record["held_out_by"] == "hash"
    del record["held_out_by"], record["only"]
    record["rows"]["mid.0"]["digest"] = store["mid.0"].filter(samples=slice(30)).digest
    record["rows"]["mid.0"]["rows"] = len(store["mid.0"].filter(samples=slice(30)))
    (tmp_path / "old").mkdir()
    (tmp_path / "old/run.json").write_text(json.dumps(record))
    (sae,) = train(store, tmp_path / "old", [Spec("mid.0", 2, 8)], **options).values()
    assert sae.meta["rows"] == record["rows"]["mid.0"]


def test_steps_and_branches_are_chosen_and_recorded(tmp_path):
    store = make(tmp_path / "acts", 40)
    options = {"tokens": 500, "batch_size": 50, "held_out": 0, "progress": False}
    chosen = {"steps": [1], "branches": ["cond"]}
    saes = train(store, tmp_path / "saes", [Spec("mid.0", 2, 8)], **options, **chosen)
    wanted = store["mid.0"].filter(steps=1, branches="cond")
    assert saes["mid.0"].meta["rows"]["digest"] == wanted.digest
    again = train(store, tmp_path / "saes", resume=True, progress=False)
    assert again["mid.0"].identity == saes["mid.0"].identity
    with pytest.raises(UnboxError, match=r"a run with other steps, \[1\], branches, \['cond'\]"):
        train(store, tmp_path / "saes", [Spec("mid.0", 2, 8)], **options)
    with pytest.raises(UnboxError, match="steps choose among the rows of a store"):
        train(noise(), tmp_path / "other", [Spec("", 2, 8)], steps=[0])


def test_snapshots_are_saes_of_their_moment(tmp_path):
    """Each is what a run that ends there, at the same rates, gives; a resumed run writes the same."""
    rows = {"mid.0": noise(block="mid.0")}
    asked, options = [Spec("mid.0", 2, 24)], {"batch_size": 100, "held_out": 0, "progress": False}
    options |= {"tokens": 2000, "warmup": 0, "decay": 0, "lr": 1e-3, "dead_after": 10**6}
    asked = [Spec("mid.0", 2, 24, lr=options.pop("lr"))]
    train(rows, tmp_path / "run", asked, keep=[500, 1999], **options)
    found = sorted(path.name for path in (tmp_path / "run/snapshots").iterdir())
    assert found == ["000000000500", "000000001999"]
    early = load_saes(tmp_path / "run/snapshots/000000000500")["mid.0"]
    short = train(rows, tmp_path / "short", asked, **options | {"tokens": 500})["mid.0"]
    assert early.W_dec.equal(short.W_dec)
    assert early.stats.density.equal(short.stats.density)
    assert early.meta["training"]["seen"] == 500
    late, last = load_saes(tmp_path / "run/snapshots/000000001999"), load_saes(tmp_path / "run")
    assert late["mid.0"].identity == last["mid.0"].identity
