"""Swap against its rule in NumPy: what is put in is of places that do not fire, by position and seed
alone."""

import numpy as np
import pytest
import torch

from tests.edits.dictionaries import dense, random_sae
from unbox.edit import Edit, Edits, Feature
from unbox.edits import undetected
from unbox.edits.program import Program
from unbox.errors import UnboxError

SAE = random_sae("mid.0", width=6, latents=24, k=5, seed=1)
GRID = (5, 4)
UPDATE = torch.randn(3, *GRID, 6, generator=torch.Generator().manual_seed(0))
FEATURES = (2, 9)
EVERY = Feature("mid.0", FEATURES, sae=SAE)


def fires(update, above=0.0):
    return (dense(SAE, update)[..., list(FEATURES)] > above).any(-1).numpy()


def after(edit, update=UPDATE, step=0, branch="cond"):
    found = Program((edit,) if isinstance(edit, Edit) else tuple(edit), 6).delta(update, update, step, branch)
    return (update if found is None else update + found).numpy()


def rows_of(array):
    return {tuple(row) for row in np.round(array.reshape(-1, 6).astype(np.float64), 4)}


def test_places_that_fire_get_vectors_of_places_of_their_image_that_do_not():
    found, detected = after(EVERY.swap()), fires(UPDATE)
    assert detected.any((1, 2)).all()
    assert not detected.all((1, 2)).any()
    for image in range(3):
        quiet = UPDATE[image].numpy()[~detected[image]]
        assert np.array_equal(found[image][~detected[image]], quiet)
        assert rows_of(found[image][detected[image]]) <= rows_of(quiet)
        assert not fires(torch.from_numpy(found[image])).any()


def test_a_threshold_a_mask_a_share_steps_and_branches_are_as_usual():
    above = float(np.median(dense(SAE, UPDATE)[..., 2][fires(UPDATE)]))
    changed = (after(EVERY.swap(above=above)) != UPDATE.numpy()).any(-1)
    assert np.array_equal(changed, fires(UPDATE, above))
    left = np.zeros(GRID, np.float32)
    left[:, :2] = 1
    masked, whole, half = after(EVERY.swap(where=left)), after(EVERY.swap()), after(EVERY.swap(0.5))
    assert np.allclose(masked, np.where(left[..., None] > 0, whole, UPDATE.numpy()), atol=1e-6)
    assert np.allclose(half, (whole + UPDATE.numpy()) / 2, atol=1e-6)
    later = EVERY.swap(steps=(1, 2), branch="uncond")
    assert np.array_equal(after(later, step=1), UPDATE.numpy())
    assert np.array_equal(after(later, step=0, branch="uncond"), UPDATE.numpy())
    assert not np.array_equal(after(later, step=1, branch="uncond"), UPDATE.numpy())


def test_the_draw_is_of_seed_and_step_and_not_of_the_batch():
    whole = after(EVERY.swap(seed=3))
    for image in range(3):
        assert np.array_equal(after(EVERY.swap(seed=3), UPDATE[image : image + 1])[0], whole[image])
    assert not np.array_equal(after(EVERY.swap(seed=4)), whole)
    assert not np.array_equal(after(EVERY.swap(seed=3), step=1), whole)


def test_donors_of_elsewhere_are_put_in_and_written():
    donors = np.round(np.random.default_rng(1).standard_normal((40, 6)), 2).astype(np.float16)
    edit = EVERY.swap(donors=donors, seed=2)
    found, detected = after(edit), fires(UPDATE)
    assert rows_of(found[detected]) <= rows_of(donors)
    assert len(rows_of(found[detected])) > 5
    assert np.array_equal(found[~detected], UPDATE.numpy()[~detected])
    again = Edits.from_json(Edits.of(edit).to_json())
    assert again == Edits.of(edit)
    assert np.array_equal(again[0].donors.array, donors.astype(np.float32))


def test_an_image_that_fires_everywhere_stays_and_no_share_is_no_edit():
    where = torch.from_numpy(np.argwhere(fires(UPDATE))[0])
    full = UPDATE[tuple(where)].expand(1, *GRID, 6).contiguous()
    assert fires(full).all()
    assert np.array_equal(after(EVERY.swap(), full), full.numpy())
    assert EVERY.swap(0.0).identity


def test_recorded_updates_where_features_do_not_fire():
    found = undetected(SAE, UPDATE.numpy(), FEATURES, count=10, seed=1)
    assert found.shape == (10, 6)
    assert not fires(torch.from_numpy(found)).any()
    assert rows_of(found) <= rows_of(UPDATE.numpy())
    assert np.array_equal(found, undetected(SAE, UPDATE.numpy(), FEATURES, count=10, seed=1))
    with pytest.raises(UnboxError, match=r"the features fire in all \d+ updates looked at; raise `above`"):
        undetected(SAE, UPDATE.numpy()[fires(UPDATE)], FEATURES)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EVERY.swap(donors=[1.0]), "donors = .*: should be vectors"),
        (lambda: EVERY.swap(donors=[[1e6]]), "donors = .*: should have finite values"),
        (lambda: EVERY.swap(seed=-1), "seed = -1: should be at least 0"),
        (lambda: EVERY.swap(where="own"), "where = .*: should be another"),
        (lambda: EVERY.swap(branch="contrast"), "branch = 'contrast': should be another"),
        (
            lambda: Edit("mid.0", "scale", feature=(1,), seed=3),
            "seed = 3: should be left out: it is for swap",
        ),
        (lambda: Edit("mid.0", "scale", feature=(1,), donors=[[1.0]]), "donors = .*: should be left out"),
        (lambda: Edit("mid.0", "swap"), "op = 'swap': should be an op of update edits"),
        (lambda: undetected(SAE, UPDATE.numpy(), 3, count=0), "undetected: count = 0: should be at least 1"),
    ],
)
def test_what_is_no_swap_is_refused(make, message):
    with pytest.raises(UnboxError, match=message):
        make()
