"""RIEBench's interventions, written out in NumPy from its published code, on the same tensors."""

import numpy as np
import pytest
import torch

from tests.edits.dictionaries import random_sae
from unbox.edits.program import Program
from unbox.experiments.riebench.interventions import (
    PairedRuns,
    carry_features,
    carry_neurons,
    carry_updates,
)

BLOCKS, STEPS, WIDTH, LATENTS = {"mid.0": (4, 4), "up.0.1": (6, 8)}, 3, 6, 24
SAES = {b: random_sae(b, WIDTH, LATENTS, k=5, seed=i) for i, b in enumerate(BLOCKS)}
LAYERS = {"mid.first": "mid.0", "mid.second": "mid.0", "up.first": "up.0.1"}
UNITS = 10


def updates(seed):
    rng = np.random.default_rng(seed)
    return {b: rng.standard_normal((STEPS, *grid, WIDTH)).astype(np.float32) for b, grid in BLOCKS.items()}


def masks(seed):
    rng = np.random.default_rng(seed)
    return {b: rng.random(grid) < 0.4 for b, grid in BLOCKS.items()}


def neurons(seed):
    rng = np.random.default_rng(seed)
    return {
        path: torch.from_numpy(rng.standard_normal((STEPS, np.prod(BLOCKS[b]), UNITS)).astype(np.float32))
        for path, b in LAYERS.items()
    }


def runs(spread=False, steps=(0, 1, 2)):
    return PairedRuns(
        updates(0), updates(1), masks(2), masks(3), spread, steps, neurons(4), neurons(5), LAYERS
    )


def codes(block, x):
    sae = SAES[block]
    return sae.encode(torch.from_numpy(np.ascontiguousarray(x))).dense(LATENTS).numpy().astype(np.float64)


def best(source, target, count):
    """`best_features_saeuron` on (place, unit): the highest and the lowest scores."""
    mean_source, mean_target = source.mean(0), target.mean(0)
    order = np.argsort(mean_source / mean_source.sum() - mean_target / mean_target.sum())
    return order[::-1][:count], order[:count]


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("steps", [(0, 1, 2), (10, 30, 31)])
@pytest.mark.parametrize("count", [3, 17])
def test_features_are_carried_as_published(spread, steps, count):
    """`get_features_all_blocks` and `add_featuremaps`: live codes are removed, times n_source / n_target."""
    given, m = runs(spread, steps), 2.0
    edits = carry_features(given, SAES, count, m)
    source = {b: codes(b, given.donor[b][:, given.read[b]]) for b in BLOCKS}
    target = {b: codes(b, given.original[b][:, given.edited[b]]) for b in BLOCKS}
    sides = [[side[b][0].mean(0) for b in BLOCKS] for side in (source, target)]
    means = [np.concatenate(side) for side in sides]
    order = np.argsort(means[0] / means[0].sum() - means[1] / means[1].sum())
    to_source, to_target = order[::-1][:count], order[:count]
    now, moved = updates(9), 0.0
    for number, (block, grid) in enumerate(BLOCKS.items()):
        mine = [(u[(u >= number * LATENTS) & (u < (number + 1) * LATENTS)] - number * LATENTS)
                for u in (to_source, to_target)]  # fmt: skip
        decoder = np.asarray(SAES[block].W_dec.detach(), np.float64)
        norms = [np.linalg.norm(decoder[units], axis=1).sum() for units in mine]
        adjustment = norms[0] / norms[1] if norms[1] > 0 else 0
        for place, step in enumerate(steps):
            update = now[block][place]
            change = np.zeros((*grid, LATENTS))
            live = codes(block, update)[..., mine[1]] * m * adjustment
            live[~given.edited[block]] = 0
            change[..., mine[1]] -= live
            if spread:
                change[np.ix_(*map(range, grid), mine[0])] += (
                    given.edited[block][..., None] * m * source[block][place].mean(0)[mine[0]]
                )
            else:
                maps = np.zeros((*grid, LATENTS))
                maps[given.read[block]] = m * source[block][place]
                change[..., mine[0]] += maps[..., mine[0]]
            program = Program(tuple(e for e in edits if e.block == block), WIDTH)
            x = torch.from_numpy(update)[None]
            found = program.delta(x, x, step, "cond")
            found = np.zeros((*grid, WIDTH)) if found is None else found.expand_as(x)[0].numpy()
            moved += np.abs(change).max()
            np.testing.assert_allclose(found, change @ decoder, atol=2e-6, rtol=1e-5)
            if steps[0]:  # maps of the first steps stay after them, as everywhere
                assert program.delta(x, x, 400, "cond") is None
    assert moved > 0


@pytest.mark.parametrize("spread", [False, True])
def test_steering_is_spatial(spread):
    """`setup_activation_interventions`, mode steering."""
    given, m = runs(spread), 0.5
    shifts = carry_updates(given, m).shifts
    for block, grid in BLOCKS.items():
        shift = next(s for path, s in shifts.items() if len(s.added[0]) == np.prod(grid))
        for step in range(STEPS):
            delta = np.zeros((*grid, WIDTH))
            source = given.donor[block][step][given.read[block]]
            if spread:
                delta[given.edited[block]] += m * source.mean(0)
            else:
                delta[given.read[block]] += m * source
            delta[given.edited[block]] -= m * given.original[block][step][given.edited[block]]
            np.testing.assert_allclose(shift.added[step].numpy(), delta.reshape(-1, WIDTH), atol=1e-6)


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("over", ["first", "mean"])
def test_neurons_are_carried_as_published(spread, over):
    """`get_neurons_all_blocks` and `setup_neuron_interventions`, with the normalisation over places."""
    given, m, count = runs(spread), 1.5, 8
    sides = []
    for recorded, where in ((given.donor_neurons, given.read), (given.original_neurons, given.edited)):
        sides.append(
            {p: recorded[p].numpy()[:, where[b].ravel()].astype(np.float64) for p, b in LAYERS.items()}
        )
    scaled = [
        np.concatenate([(x / np.linalg.norm(x, axis=1, keepdims=True)).mean(1) for x in side.values()], -1)
        for side in sides
    ]
    parts = [x[0] if over == "first" else x.mean(0) for x in scaled]
    order = np.argsort(parts[0] / parts[0].sum() - parts[1] / parts[1].sum())
    to_source, to_target = order[::-1][:count], order[:count]
    shifts = carry_neurons(given, count, m, over).shifts
    for number, (path, block) in enumerate(LAYERS.items()):
        read, edited = given.read[block].ravel(), given.edited[block].ravel()
        for step in range(STEPS):
            fmaps = np.zeros((len(read), UNITS))
            for unit in to_source[to_source // UNITS == number] % UNITS:
                values = m * sides[0][path][step][:, unit]
                fmaps[edited if spread else read, unit] += values.mean() if spread else values
            for unit in to_target[to_target // UNITS == number] % UNITS:
                fmaps[edited, unit] -= m * sides[1][path][step][:, unit]
            found = np.zeros_like(fmaps)
            if path in shifts:
                found[:, shifts[path].channels.numpy()] = shifts[path].added[step].numpy()
            np.testing.assert_allclose(found, fmaps, atol=1e-5)
