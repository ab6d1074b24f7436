"""Transport and erasure against their formulas."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.edits.dictionaries import dense as dense_codes
from tests.edits.dictionaries import random_sae
from unbox.edits.erasure import erase, mean_codes
from unbox.edits.program import Program
from unbox.edits.transport import SPREADS, UpdatePair, choose_features, steer, transport
from unbox.errors import UnboxError

SAES = {"mid.0": random_sae("mid.0", seed=1), "up.0.1": random_sae("up.0.1", seed=2)}
STEPS, GRID, WIDTH = 3, (4, 4), 6
MASK = (0.0, 0.0, 0.5, 1.0)
LEFT = np.repeat(np.array([[1, 1, 0, 0]], np.float32), 4, 0)


def updates(seed):
    rng = np.random.default_rng(seed)
    return {block: rng.standard_normal((STEPS, *GRID, WIDTH)).astype(np.float32) for block in SAES}


PAIR = UpdatePair(updates(0), updates(1), MASK, None)


def dense(block, run):
    return dense_codes(SAES[block], torch.from_numpy(run[block])).numpy()


def delta(edits, block, step, update):
    mine = tuple(e for e in edits if e.block == block)
    program = Program(mine, WIDTH)
    update = torch.from_numpy(update)[None]
    found = program.delta(update, update if program.reads else None, step, "cond")
    return np.zeros(update.shape[1:]) if found is None else found.expand_as(update)[0].numpy()


def test_features_are_chosen_by_normalised_mean_difference_over_all_blocks():
    donor = {b: (dense(b, PAIR.donor)[0] * LEFT[..., None]).sum((0, 1)) / 8 for b in SAES}
    original = {b: dense(b, PAIR.original)[0].mean((0, 1)) for b in SAES}
    total = [sum(mu.sum() for mu in side.values()) for side in (donor, original)]
    scores = {(b, i): donor[b][i] / total[0] - original[b][i] / total[1] for b in SAES for i in range(12)}
    ranked = sorted(scores, key=scores.__getitem__)
    added, removed = choose_features(PAIR, SAES, 5)
    assert {(b, int(i)) for b, chosen in added.items() for i in chosen} == set(ranked[-5:])
    assert {(b, int(i)) for b, chosen in removed.items() for i in chosen} == set(ranked[:5])


def test_maps_carry_the_donors_codes_and_take_the_originals():
    edits = transport(PAIR, SAES, count=5, strength=2.0)
    added, removed = choose_features(PAIR, SAES, 5)
    for block in SAES:
        for step in range(STEPS):
            expected = np.zeros((*GRID, WIDTH))
            for chosen, run, sign, where in ((added, PAIR.donor, 2, LEFT), (removed, PAIR.original, -2, 1)):
                features = chosen.get(block, np.array([], int))
                codes = dense(block, run)[step][..., features] * np.asarray(where)[..., None]
                expected += sign * codes @ SAES[block].W_dec.numpy()[features]
            assert np.allclose(delta(edits, block, step, PAIR.original[block][step]), expected, atol=1e-4)


@pytest.mark.parametrize("spread", SPREADS)
def test_a_run_brings_nothing_to_itself(spread):
    same = UpdatePair(PAIR.donor, PAIR.donor, MASK, MASK)
    assert len(transport(same, SAES, count=4, spread=spread)) == 0


@pytest.mark.parametrize(("spread", "number"), [("mean", np.mean), ("max", np.max)])
def test_without_a_map_each_step_has_one_number(spread, number):
    edits = transport(PAIR, SAES, count=3, spread=spread)
    for edit in edits:
        run, sign = (PAIR.donor, 1) if edit.where is not None else (PAIR.original, -1)
        codes = dense(edit.block, run)[..., edit.feature[0]]
        inside = codes[:, :, :2] if sign == 1 else codes
        assert np.allclose(edit.value, [sign * number(step) for step in inside], atol=1e-5)


def test_live_removal_reads_the_running_model():
    edits = transport(PAIR, SAES, count=3, spread="live")
    removing = [e for e in edits if e.op == "scale"]
    assert removing
    for edit in removing:
        now = updates(9)[edit.block][0]
        codes = dense_codes(SAES[edit.block], torch.from_numpy(now)).numpy()[..., list(edit.feature)]
        expected = -codes @ SAES[edit.block].W_dec.numpy()[list(edit.feature)]
        assert np.allclose(delta([edit], edit.block, 0, now), expected, atol=1e-4)


def test_steering_moves_the_masked_mean_update():
    edits = steer(PAIR, ("mid.0",), strength=0.5)
    inside = PAIR.donor["mid.0"][1][:, :2].mean((0, 1))
    expected = 0.5 * (LEFT[..., None] * inside - PAIR.original["mid.0"][1].mean((0, 1)))
    assert np.allclose(delta(edits, "mid.0", 1, PAIR.original["mid.0"][1]), expected, atol=1e-5)


def test_transport_refuses_what_it_does_not_have():
    with pytest.raises(UnboxError, match="transport: spread = 'blur': should be one of map, mean"):
        transport(PAIR, SAES, spread="blur")
    with pytest.raises(UnboxError, match=r"up\.1\.0 was not recorded"):
        transport(PAIR, {"up.1.0": random_sae("up.1.0")})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: transport(PAIR, SAES, 0), "transport: count = 0: should be at least 1"),
        (lambda: transport(PAIR, SAES, steps=0), "transport: steps = 0: should be at least 1"),
        (
            lambda: transport(PAIR, SAES, strength=np.nan),
            "transport: strength = nan: should be a finite number",
        ),
        (lambda: steer(PAIR, ("mid.0",), "x"), "steer: strength = 'x': should be a number"),
        (
            lambda: UpdatePair(PAIR.donor, PAIR.original, "all"),
            "UpdatePair: donor_mask = 'all': should be a box",
        ),
        (lambda: UpdatePair(np.ones(3), PAIR.original), "UpdatePair: donor = .*: should be updates"),
        (
            lambda: UpdatePair({"mid.0": np.ones((2, 3))}, PAIR.original),
            "UpdatePair: donor = .*: should be upd",
        ),
        (
            lambda: erase(SAES["mid.0"], rows(0), rows(1), percentile=np.nan),
            "erase: percentile = nan: should be",
        ),
        (lambda: erase(SAES["mid.0"], rows(0), rows(1), limit=-1), "erase: limit = -1: should be at least 1"),
        (
            lambda: erase(SAES["mid.0"], rows(0), rows(1), scale=None),
            "erase: scale = None: should be a number",
        ),
        (
            lambda: erase(SAES["mid.0"], rows(0), rows(1), by_step=1),
            "erase: by_step = 1: should be true or false",
        ),
    ],
)
def test_arguments_are_checked_by_rule(make, message):
    with pytest.raises(UnboxError, match=f"^{message}"):
        make()


def rows(seed, images=4):
    data = np.random.default_rng(seed).standard_normal((images, STEPS, 1, *GRID, WIDTH)).astype(np.float32)
    return SimpleNamespace(shape=data.shape, read=lambda i: data[i], data=data)


def test_mean_codes_count_every_position():
    some = rows(0)
    expected = dense_codes(SAES["mid.0"], torch.from_numpy(some.data)).numpy()
    assert np.allclose(mean_codes(SAES["mid.0"], some), expected.mean((0, 2, 3, 4)), atol=1e-6)
    assert np.allclose(
        mean_codes(SAES["mid.0"], some, False), expected.mean((0, 1, 2, 3, 4))[None], atol=1e-6
    )


def test_erasure_takes_out_the_most_important_features_where_they_fire_for_the_concept():
    sae, concept, others = SAES["mid.0"], rows(0), rows(1)
    edits = erase(sae, concept, others, percentile=80, scale=-1.0, limit=2)
    mean, base = mean_codes(sae, concept), mean_codes(sae, others)
    for step in range(STEPS):
        chosen = [e for e in edits if e.steps == (step, step + 1)]
        best = np.argsort(base[step] - mean[step])[:2]
        assert [e.feature[0] for e in chosen] == [f for f in best if mean[step][f] > base[step][f]]
        assert all(e.above == pytest.approx(mean[step][e.feature[0]]) and e.value == -1 for e in chosen)


@pytest.mark.parametrize("by_step", [True, False])
@pytest.mark.parametrize("fires", [0, 75])
def test_erasure_acts_above_a_percentile_of_the_active_codes(by_step, fires):
    sae, concept, others = SAES["mid.0"], rows(0), rows(1)
    codes = dense_codes(sae, torch.from_numpy(concept.data)).numpy()
    for edit in erase(sae, concept, others, percentile=80, fires=fires, by_step=by_step):
        mine = codes[..., edit.feature[0]][:, edit.steps[0]] if by_step else codes[..., edit.feature[0]]
        share = (mine > edit.above).sum() / (mine > 0).sum()
        assert share == pytest.approx(1 - fires / 100, abs=0.05)
    with pytest.raises(UnboxError, match="erase: fires = 100: should be less than 100"):
        erase(sae, concept, others, fires=100)


def test_erasure_says_when_there_is_nothing_to_erase():
    with pytest.raises(UnboxError, match="no feature"):
        erase(SAES["mid.0"], rows(0), rows(0))
    with pytest.raises(UnboxError, match="empty"):
        erase(SAES["mid.0"], rows(0, images=0), rows(0))
