"""The pass over the store against what was planted; resuming; carrying labels over."""

import signal
from collections.abc import Iterator
from dataclasses import replace

import h5py
import numpy as np
import pytest

from activation_store import Sample, Schema, Store, Writer
from tests.atlas.conftest import PLAN
from tests.atlas.planted import GRIDS, IMAGES, LATENTS, activations, caption, planted_sae, scene
from unbox.atlas import Atlas, build, encode_pass, set_label
from unbox.atlas.top_images import Best, pair_noise
from unbox.errors import UnboxError
from unbox.stopping import Stopped, stopping


def table(block: str) -> np.ndarray:
    """(images, step, branch, y, x, latent)."""
    return np.stack([activations(i, block) for i in range(IMAGES)])


@pytest.mark.parametrize("block", GRIDS)
def test_statistics_are_those_of_what_was_planted(atlas, block):
    z = table(block).reshape(-1, LATENTS)
    for f in range(LATENTS):
        facts = atlas.feature(f"{block}/{f}")
        active = z[z[:, f] > 0, f]
        assert facts.density == pytest.approx((z[:, f] > 0).mean())
        assert facts.pictures == pytest.approx((table(block)[..., f].reshape(IMAGES, -1) > 0).any(1).mean())
        assert facts.largest == pytest.approx(z[:, f].max())
        assert facts.mean == pytest.approx(active.mean() if len(active) else 0, rel=1e-5)
        assert facts.std == pytest.approx(active.std() if len(active) else 0, abs=1e-4)


def test_life_over_the_steps(atlas):
    colour, animal, all_over = (atlas.life(f"up.0.0/{f}") for f in (0, 3, 7))
    assert atlas.feature("up.0.0/0").last_step == 0
    assert atlas.feature("up.0.0/7").first_step == 1
    assert colour.places.tolist() == [IMAGES // 3 * 16, 0]
    assert colour.overlap.tolist() == [0]
    assert animal.overlap.tolist() == [1]
    dogs = sum(scene(i)[1] == 3 for i in range(IMAGES))
    assert animal.first.tolist() == [dogs, 0]
    assert animal.last.tolist() == [0, dogs]
    assert all_over.first.tolist() == [0, IMAGES]
    assert atlas.feature("up.0.0/11").first_step is None


def test_positions_and_branches(atlas):
    shares = atlas.by_position("mid.0/0")
    assert shares.shape == GRIDS["mid.0"]
    assert shares[:2, :2].sum() == pytest.approx(1)
    assert atlas.by_branch("mid.0/0") == {"cond": IMAGES // 3 * 4}


def test_top_images_are_the_strongest_in_order(atlas):
    with_red = [i for i in range(IMAGES) if scene(i)[0] == 0]
    found = atlas.examples("mid.0/0", "top")
    assert [e.image for e in found] == sorted(with_red, reverse=True)[: PLAN.top]
    for each in found:
        z = activations(each.image, "mid.0")[..., 0].max((0, 1))
        np.testing.assert_allclose(each.heat, z, atol=each.peak / 255)
        assert each.prompt.startswith("a red")
        assert each.seed == 100 + each.image
        assert each.thumbnail is not None
        assert each.thumbnail.read_bytes()[:4] == b"RIFF"


def test_random_images_fire_and_decoys_do_not(atlas):
    chosen = {e.image for e in atlas.examples("mid.0/0", "random")}
    assert len(chosen) == PLAN.random
    assert all(scene(i)[0] == 0 for i in chosen)
    decoys = [e.image for e in atlas.examples("mid.0/0", "decoys")]
    assert decoys
    assert all(scene(i)[0] != 0 for i in decoys)


def test_each_interval_holds_images_of_its_strength(atlas):
    scale = atlas.histogram("mid.0/0").edges[-1]
    seen = set()
    for interval in range(atlas.intervals):
        for each in atlas.examples("mid.0/0", "interval", interval):
            assert int(min(each.peak / scale * atlas.intervals, atlas.intervals - 1)) == interval
            seen.add(each.image)
    assert len(seen) > PLAN.per_interval


def test_histogram_counts_every_active_place(atlas):
    found = atlas.histogram("up.0.0/3")
    z = table("up.0.0")[..., 3]
    assert found.counts.sum() == (z > 0).sum()
    expected, _ = np.histogram(z[z > 0], found.edges)
    assert np.abs(np.cumsum(found.counts) - np.cumsum(expected)).max() <= 128  # values on an edge


def test_active_together_and_in_other_blocks(atlas):
    assert atlas.related("mid.0/0", "coactive")[0].facts.name == "mid.0/6"
    assert atlas.related("mid.0/0", "coactive")[0].share == pytest.approx(1)
    elsewhere = {r.facts.name for r in atlas.related("mid.0/0", "elsewhere")}
    assert "up.0.0/0" in elsewhere
    assert all(not name.startswith("mid.0") for name in elsewhere)
    assert atlas.related("mid.0/11", "coactive") == []


def test_labels_are_the_words_that_were_planted(atlas):
    for f, word in enumerate(("red", "green", "blue", "dog", "cat", "bird")):
        facts = atlas.feature(f"up.0.0/{f}")
        assert word in facts.label.split(", ")[0]
        assert facts.score == pytest.approx(1)
    assert atlas.feature("up.0.0/7").label == ""
    assert atlas.feature("up.0.0/11").label == ""


class Stop(Exception):
    pass


@pytest.mark.parametrize(("after", "by_signal"), [(1, False), (3, False), (2, True)])
def test_stopped_and_begun_again_gives_the_same(store, saes, tmp_path, monkeypatch, after, by_signal):
    monkeypatch.setattr(encode_pass, "ROWS", 16 * 32)  # 16 images at a time for mid.0, 4 for up.0.0
    whole = Atlas.open(build(store, saes, tmp_path / "whole", plan=PLAN, progress=False))

    def interrupted(images: int, start: int, size: int) -> Iterator[range]:
        for done, first in enumerate(range(start, images, size)):
            if done == after + (not by_signal):  # a part is encoded while the one before is counted
                if not by_signal:
                    raise Stop
                signal.raise_signal(signal.SIGTERM)  # saved when this part is counted
            yield range(first, min(first + size, images))

    with monkeypatch.context() as patch:
        patch.setattr(encode_pass, "batches", interrupted)
        patch.setattr(encode_pass.gather, "__defaults__", (None, 1e9 if by_signal else 0.0))
        with pytest.raises((Stop, Stopped)), stopping():
            build(store, saes, tmp_path / "atlas", plan=PLAN, progress=False)
        assert list((tmp_path / "atlas").rglob("*.npz"))
    again = Atlas.open(build(store, saes, tmp_path / "atlas", plan=PLAN, progress=False))
    for number in range(len(saes)):
        with (
            h5py.File(whole.folder / f"{number:03d}.h5", locking=False) as one,
            h5py.File(again.folder / f"{number:03d}.h5", locking=False) as two,
        ):
            names: list[str] = []
            one.visit(names.append)
            for name in names:
                if isinstance(one[name], h5py.Dataset):
                    np.testing.assert_array_equal(one[name][()], two[name][()], err_msg=name)
    assert not list((tmp_path / "atlas").rglob("*.npz"))


def test_a_new_atlas_keeps_the_labels_of_people(store, saes, tmp_path):
    out = tmp_path / "atlas"
    first = Atlas.open(build(store, {"mid.0": saes["mid.0"]}, out, plan=PLAN, progress=False))
    set_label(first, "mid.0/2", "my own word", "me")
    second = Atlas.open(build(store, saes, out, plan=PLAN, progress=False))
    assert second.folder != first.folder
    assert not first.folder.exists()
    assert second.feature("mid.0/2").label == "my own word"
    assert second.search("my own")[0].name == "mid.0/2"


def test_saes_of_other_blocks_and_widths_are_refused(store, tmp_path):
    with pytest.raises(UnboxError, match=r"of block 'up\.1\.1'; the store has mid\.0, up\.0\.0"):
        build(
            store,
            {"x": replace(planted_sae("mid.0"), block="up.1.1")},
            tmp_path,
        )
    assert not list(tmp_path.iterdir())


def test_places_that_a_store_keeps_are_read_by_the_shard(tmp_path):
    """Three images a shard, five places of each 4x4 grid: read together they are what each image says."""
    grid, rng = GRIDS["mid.0"], np.random.default_rng(0)
    schema = Schema({"mid.0": (*grid, 12)}, (0,), ("cond",), shard_samples=3, positions=5)
    with Writer(tmp_path / "store", schema) as writer:
        for start in range(0, 9, 3):
            kept = np.sort(np.stack([rng.permutation(16)[:5] for _ in range(3)]), 1)
            samples = [Sample(start + i, caption(start + i), i) for i in range(3)]
            values = np.stack([activations(start + i, "mid.0")[:1].reshape(1, 1, 16, 12)[:, :, kept[i]]
                               for i in range(3)])[:, :, :, None]  # fmt: skip
            writer.append(samples, {"mid.0": values}, None, {"mid.0": kept})
    store = Store.open(tmp_path / "store")
    rows = store["mid.0"]
    expected = np.stack([rows.positions(i) for i in range(2, 8)])
    np.testing.assert_array_equal(rows.positions_of(range(2, 8)), expected)
    found = Atlas.open(
        build(store, {"mid.0": planted_sae("mid.0")}, tmp_path / "atlas", plan=PLAN, progress=False)
    )
    for each in found.examples("mid.0/0", "top"):
        there = np.zeros(16, bool)
        there[rows.positions(each.image)] = True
        planted = np.where(there.reshape(grid), activations(each.image, "mid.0")[0, 0, ..., 0], 0)
        np.testing.assert_allclose(each.heat, planted, atol=each.peak / 255)


def test_best_keeps_exactly_the_largest():
    rng = np.random.default_rng(0)
    best = Best.empty(3, 4, 0)
    rows, keys = rng.integers(0, 3, 500), rng.random(500)
    for part in np.array_split(np.arange(500), 23):
        best.offer(rows[part], keys[part], part, keys[part].astype(np.float32))
    for row in range(3):
        expected = sorted(((keys[i], i) for i in np.flatnonzero(rows == row)), reverse=True)[:4]
        assert best.sorted().image[row].tolist() == [i for _, i in expected]


def test_noise_is_uniform_and_of_the_pair_alone():
    rows, images = np.divmod(np.arange(20_000), 200)
    noise = pair_noise(rows, images, 0)
    assert abs(noise.mean() - 0.5) < 0.01
    assert 0 <= noise.min() < noise.max() < 1
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.03
    np.testing.assert_array_equal(noise[500:600], pair_noise(rows[500:600], images[500:600], 0))
