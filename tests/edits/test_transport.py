"""Transport against its formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.edits.dictionaries import dense as dense_codes
from tests.edits.dictionaries import random_sae
from unbox.edits.program import Program
from unbox.edits.transport import SPREADS, UpdatePair, choose_features, runs_of, steer, transport
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
    ],
)
def test_arguments_are_checked_by_rule(make, message):
    with pytest.raises(UnboxError, match=f"^{message}"):
        make()


@pytest.mark.parametrize("spread", SPREADS)
def test_what_was_recorded_at_some_steps_acts_at_those_steps(spread):
    """Runs recorded at the scheduler's steps 10, 30 and 31: the axis of the arrays says nothing."""
    at = (10, 30, 31)
    plain, edits = (transport(replace(PAIR, steps=some), SAES, count=5, spread=spread) for some in ((), at))
    update = updates(9)["mid.0"][0]
    for place, step in enumerate(at):
        expected = delta(plain, "mid.0", place, update)
        assert np.abs(expected).max() > 0
        assert np.allclose(delta(edits, "mid.0", step, update), expected, atol=1e-5)
    for step in (0, 1, 2, 9, 11, 29, 32, 999):
        assert not delta(edits, "mid.0", step, update).any()


def test_steering_acts_at_the_recorded_steps():
    edits = steer(replace(PAIR, steps=(10, 30, 31)), ("mid.0",))
    assert {edit.steps for edit in edits} == {(10, 11), (30, 31), (31, 32)}
    with pytest.raises(UnboxError, match=r"^UpdatePair: steps = \(10, 30\): should be the 3 steps"):
        replace(PAIR, steps=(10, 30))


def test_runs_of_steps():
    assert runs_of((0, 1, 4, 6, 7)) == [(0, 2), (4, 5), (6, 8)]
