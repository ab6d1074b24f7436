"""Erasure against SAeUron's rule, written out in NumPy from its code, on the same tensors."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.edits.dictionaries import dense, random_sae
from unbox.edits.concepts import concept_images
from unbox.edits.erasure import acting_steps, concept_codes, erase, erase_by_difference
from unbox.edits.program import Program
from unbox.errors import UnboxError

SAE = random_sae("mid.0", width=6, latents=24, k=5, seed=1)
RECORDED, GRID = (10, 30), (4, 4)


def rows(seed, images=4, steps=RECORDED):
    data = np.random.default_rng(seed).standard_normal((images, len(steps), 2, *GRID, 6)).astype(np.float32)
    return SimpleNamespace(shape=data.shape, steps=steps, read=lambda i: data[i], data=data)


CONCEPTS = {"cat": rows(0), "dog": rows(1, images=7), "tree": rows(2, images=3)}


def codes_of(x):
    """(..., latents) of updates (..., d), in double precision: pre-activations, the k largest, above 0."""
    w, b, pre = (np.asarray(getattr(SAE, name).detach(), np.float64) for name in ("W_enc", "b_lat", "b_pre"))
    z = (x - pre) @ w.T + b
    kept = np.argsort(-z, axis=-1)[..., : SAE.k]
    out = np.zeros_like(z)
    np.put_along_axis(out, kept, np.maximum(np.take_along_axis(z, kept, -1), 0), -1)
    return out


def saeuron(concept_updates, erased, percentile, multiplier, place, update):
    """The update (y, x, d) after SAeUron's hook at the recorded step of this place."""
    latents = {
        c: codes_of(x).mean((2, 3, 4))[:, place] for c, x in concept_updates.items()
    }  # (image, latent)
    z, changed = codes_of(update), codes_of(update)
    for concept in erased:
        target = latents[concept].mean(0)
        others = np.concatenate([latents[c] for c in latents if c != concept]).mean(0)
        scores = target / (target.sum() + 1e-8) - others / (others.sum() + 1e-8)
        top = np.where(scores > np.quantile(scores, percentile / 100))[0]
        average = sum(latents[c][:, top].mean(0) for c in latents) / len(latents)
        mask = z[..., top] > average
        changed[..., top] = np.where(mask, z[..., top] * (target[top] * multiplier), z[..., top])
    return update + (changed - z) @ np.asarray(SAE.W_dec.detach(), np.float64)


@pytest.mark.parametrize("erased", [["cat"], ["cat", "dog"], ["tree", "dog", "cat"]])
@pytest.mark.parametrize(("percentile", "multiplier"), [(60, -1.0), (90, -12.5)])
def test_erasure_is_saeurons_rule(erased, percentile, multiplier):
    edits = tuple(erase(SAE, CONCEPTS, erased, percentile=percentile, multiplier=multiplier))
    program = Program(edits, 6)
    update = np.random.default_rng(9).standard_normal((*GRID, 6)).astype(np.float32)
    wanted = {c: each.data for c, each in CONCEPTS.items()}
    given = torch.from_numpy(update)[None]
    for place, step in enumerate(RECORDED):
        for branch in ("cond", "uncond"):
            found = update + program.delta(given, given, step, branch)[0].numpy()
            expected = saeuron(wanted, erased, percentile, multiplier, place, update)
            assert np.abs(expected - update).max() > 1e-3
            np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-6)
    assert program.delta(given, given, 0, "cond") is None
    assert program.delta(given, given, 11, "cond") is None


def test_means_are_over_images_branches_and_positions():
    found = concept_codes(SAE, CONCEPTS)
    assert found.steps == RECORDED
    for concept, mean in found.means.items():
        expected = dense(SAE, torch.from_numpy(CONCEPTS[concept].data)).numpy().mean((0, 2, 3, 4))
        np.testing.assert_allclose(mean, expected, atol=1e-6)


@pytest.mark.parametrize("rule", [erase, erase_by_difference])
def test_edits_act_at_the_schedulers_steps_and_on_a_branch(rule):
    every = rule(SAE, CONCEPTS, "cat", percentile=60, branch="cond")
    assert {edit.steps for edit in every} == {(10, 11), (30, 31)}
    assert {edit.branch for edit in every} == {"cond"}
    held = rule(SAE, CONCEPTS, "cat", percentile=60, hold=True)
    assert {edit.steps for edit in held} == {(0, 30), (30, 1000)}
    assert [edit.feature for edit in held] == [edit.feature for edit in every]
    assert acting_steps((0, 1, 2)) == [(0, 1), (1, 2), (2, 3)]


def test_erasure_by_difference_takes_out_what_is_more_active_than_its_own_mean():
    edits = erase_by_difference(SAE, CONCEPTS, "cat", percentile=80, scale=-1.0, limit=2)
    means = {c: codes_of(each.data.astype(np.float64)).mean((2, 3, 4)) for c, each in CONCEPTS.items()}
    for place, step in enumerate(RECORDED):
        mean = means["cat"][:, place].mean(0)
        base = np.concatenate([means["dog"], means["tree"]])[:, place].mean(0)
        mine = [edit for edit in edits if edit.steps == (step, step + 1)]
        assert [e.feature[0] for e in mine] == np.argsort(base - mean)[:2].tolist()
        assert all(e.above == pytest.approx(mean[e.feature[0]], rel=1e-4) and e.value == -1 for e in mine)


@pytest.mark.parametrize("fires", [0, 75])
def test_erasure_by_difference_acts_above_a_percentile_of_the_active_codes(fires):
    codes = dense(SAE, torch.from_numpy(CONCEPTS["cat"].data)).numpy()
    for edit in erase_by_difference(SAE, CONCEPTS, "cat", percentile=80, fires=fires):
        mine = codes[:, RECORDED.index(edit.steps[0]), ..., edit.feature[0]]
        share = (mine > edit.above).sum() / (mine > 0).sum()
        assert share == pytest.approx(1 - fires / 100, abs=0.06)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: erase(SAE, CONCEPTS, "cat", percentile=100), "erase: percentile = 100: should be less than"),
        (
            lambda: erase(SAE, CONCEPTS, "cat", percentile=np.nan),
            "erase: percentile = nan: should be a finite",
        ),
        (
            lambda: erase(SAE, CONCEPTS, "cat", multiplier=None),
            "erase: multiplier = None: should be a number",
        ),
        (lambda: erase(SAE, CONCEPTS, "cow"), "erase: erased = 'cow': should be a concept: cat, dog, tree"),
        (lambda: erase(SAE, CONCEPTS, []), "erase: erased"),
        (lambda: erase(SAE, CONCEPTS, "cat", branch="all"), ".*branch = 'all': should be one of"),
        (lambda: erase(SAE, CONCEPTS, "cat", hold=1), "erase: hold = 1: should be true or false"),
        (lambda: erase(SAE, {}, "cat"), "there are no concepts"),
        (lambda: erase(SAE, {"cat": rows(0, images=0), "dog": rows(1)}, "cat"), "a contrast set is empty"),
        (lambda: erase(SAE, {"cat": rows(0), "dog": rows(1, steps=(0, 1))}, "cat"), "'cat' was recorded at"),
        (lambda: erase_by_difference(SAE, CONCEPTS, "cat", limit=-1), "erase_by_difference: limit = -1"),
        (lambda: erase_by_difference(SAE, CONCEPTS, "cat", fires=100), "erase_by_difference: fires = 100"),
        (
            lambda: erase_by_difference(SAE, concept_codes(SAE, CONCEPTS), "cat", fires=5),
            "erase_by_difference: fires = 5.*: needs rows",
        ),
        (
            lambda: erase_by_difference(SAE, {"a": rows(0), "b": rows(0)}, "a"),
            "no feature of mid.0 stands out for a",
        ),
    ],
)
def test_what_cannot_be_erased_is_refused_by_name(make, message):
    with pytest.raises(UnboxError, match=f"^{message}"):
        make()


def test_concepts_are_words_or_facts_of_prompts_that_show_one_alone():
    texts = ["a red star", "a Red cat", "blue stars", "red on blue", "bored", "a green star"]
    kinds = ["star", "cat", "star", None, 7, "star"]
    samples = [
        SimpleNamespace(prompt=text, meta={} if kind is None else {"kind": kind})
        for text, kind in zip(texts, kinds, strict=True)
    ]
    store = type("Store", (), {"samples": samples, "path": "acts", "__len__": lambda self: len(samples)})()
    assert concept_images(store, ["red"]) == {"red": [0, 1, 3], "others": [2, 4, 5]}
    assert concept_images(store, ["red"], ["blue"]) == {"red": [0, 1], "blue": [2]}
    assert concept_images(store, ["red"], limit=1) == {"red": [0], "others": [2]}
    assert concept_images(store, ["star"], fact="kind") == {"star": [0, 2, 5], "cat": [1], "7": [4]}
    assert concept_images(store, ["star"], ["7"], fact="kind", limit=2) == {"star": [0, 2], "7": [4]}
    with pytest.raises(UnboxError, match="of the 6 images of acts no prompt has the words 'sta' alone"):
        concept_images(store, ["sta"])
