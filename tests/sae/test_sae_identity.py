"""An SAE's identity: every part that changes codes, edits or units changes it, and nothing else does."""

from dataclasses import replace

import pytest
import torch

from tests.edits.dictionaries import random_sae
from unbox.sae import SAE
from unbox.sae.sae_folder import STATS, WEIGHTS


def nudged(tensor):
    """The tensor with its last number changed by the least that a float32 can."""
    changed = tensor.clone()
    changed.view(-1)[-1] = torch.nextafter(changed.view(-1)[-1], torch.tensor(torch.inf))
    return changed


#: Part of the identity -> the SAE with that part changed.
CHANGES = {
    **{name: lambda s, n=name: replace(s, **{n: nudged(getattr(s, n))}) for name in WEIGHTS},
    **{
        f"stats.{name}": lambda s, n=name: replace(
            s, stats=replace(s.stats, **{n: nudged(getattr(s.stats, n))})
        )
        for name in STATS
    },
    "stats": lambda s: replace(s, stats=None),
    "k": lambda s: replace(s, k=s.k + 1),
    "threshold": lambda s: s.with_threshold(0.5),
    "thresholds": lambda s: s.with_threshold((0.5,) * (s.latents - 1) + (0.25,)),
    "update_std": lambda s: replace(s, update_std=s.update_std * 1.0000001),
    "block": lambda s: replace(s, block="up.0.1"),
}
#: What says nothing about its features.
SAME = {
    "name": lambda s: replace(s, name="another"),
    "meta": lambda s: replace(s, meta={"training": {"date": "today"}}),
    "strides": lambda s: replace(s, W_enc=s.W_enc.T.contiguous().T),
    "device": lambda s: s.to("cpu"),
}


@pytest.mark.parametrize("part", CHANGES)
def test_each_part_changes_it(part):
    sae = random_sae()
    assert CHANGES[part](sae).identity != sae.identity


def test_all_the_changes_differ():
    sae = random_sae()
    assert len({change(sae).identity for change in CHANGES.values()}) == len(CHANGES)


@pytest.mark.parametrize("part", SAME)
def test_what_does_not_matter_leaves_it(part):
    sae = random_sae()
    assert SAME[part](sae).identity == sae.identity


@pytest.mark.parametrize("threshold", [None, 1, 0.1, (0.1,) * 12])
def test_it_is_the_same_from_disk_and_from_any_folder(threshold, tmp_path):
    sae = random_sae().with_threshold(threshold)
    sae.save(tmp_path / "one")
    SAE.load(tmp_path / "one").save(tmp_path / "elsewhere")
    assert SAE.load(tmp_path / "elsewhere").identity == sae.identity


def test_weights_that_half_precision_can_hold_are_the_same_in_it():
    sae = random_sae().to(dtype=torch.float16)
    assert sae.to(dtype=torch.float32).identity == sae.identity
    assert len(sae.identity) == 24
