"""Training of the decoder alone: the encoder stays to the bit, the decoder goes where it is best."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.sae.worlds import noise, planted
from unbox.errors import UnboxError
from unbox.sae import SAE, ArrayRows, Spec, evaluate, fit, train
from unbox.sae.training_run import TrainingRun

QUICK = {"batch_size": 128, "progress": False}
ENCODER = ("W_enc", "b_pre", "b_lat")


@pytest.fixture(scope="module")
def rows():
    return ArrayRows(planted(rows=4000)[0])


@pytest.fixture(scope="module")
def spoilt(rows):
    """A trained SAE whose decoder was turned to anywhere."""
    sae = fit(rows, 3, 48, tokens=30_000, lr=1e-2, **QUICK)
    turned = torch.randn(48, sae.width, generator=torch.Generator().manual_seed(0))
    return replace(sae, W_dec=torch.nn.functional.normalize(turned, dim=1))


def same_encoder(one: SAE, other: SAE) -> bool:
    alike = all(torch.equal(getattr(one, name), getattr(other, name)) for name in ENCODER)
    if one.threshold is None or other.threshold is None:
        return alike and one.threshold is other.threshold
    return alike and torch.equal(one.threshold, other.threshold)


@pytest.mark.parametrize("threshold", [None, 0.3, "each"])
@pytest.mark.parametrize("variant", ["topk", "matryoshka"])
def test_the_encoder_stays_to_the_bit(variant, threshold, rows, spoilt):
    each = torch.linspace(0.1, 0.5, 48)
    sae = spoilt.with_threshold(each if threshold == "each" else threshold)
    options = {"tokens": 20_000, "lr": 1e-2, "variant": variant, "freeze_encoder": True, "clip_norm": 1.0}
    found = fit(rows, 3, 48, init_from=sae, **options, **QUICK)
    if threshold is None and variant == "matryoshka":  # winners of a batch end as a threshold
        found = found.with_threshold(None)
    assert same_encoder(found, sae)
    assert not torch.equal(found.W_dec, sae.W_dec)
    assert torch.allclose(found.W_dec.norm(dim=1), torch.ones(48), atol=1e-5)


def test_the_decoder_goes_where_least_squares_of_the_codes_are(rows, spoilt):
    """One gradient step's direction in NumPy, and a fit that comes near the best decoder for the codes."""
    found = fit(rows, 3, 48, tokens=150_000, lr=1e-2, freeze_encoder=True, init_from=spoilt, **QUICK)
    x = rows.array
    codes = spoilt.encode(torch.from_numpy(x)).dense(48).numpy().astype(np.float64)
    best = np.linalg.lstsq(codes, x - spoilt.b_pre.numpy(), rcond=None)[0]
    used = codes.any(0)
    unit = best[used] / np.linalg.norm(best[used], axis=1, keepdims=True)
    assert float((unit * found.W_dec.numpy()[used]).sum(1).mean()) > 0.95
    assert evaluate(found, rows).fvu < 0.3 * evaluate(spoilt, rows).fvu


@pytest.mark.parametrize("threshold", [None, 0.3, "each"])
def test_a_stopped_run_goes_on_to_the_same_bits(threshold, spoilt, tmp_path, monkeypatch):
    each = torch.linspace(0.1, 0.5, 48)
    sae = spoilt.with_threshold(each if threshold == "each" else threshold)
    rows, spec = ArrayRows(planted(rows=2000)[0]), [Spec(k=3, latents=48)]
    options = {"tokens": 4000, "held_out": 0, "checkpoint_every": 1000, "freeze_encoder": True, **QUICK}
    (whole,) = train(rows, tmp_path / "whole", spec, init_from=sae, **options).values()
    advance, left = TrainingRun.advance, [20]

    class Stop(Exception):
        pass

    def stopping(self, *args):
        left[0] -= 1
        if left[0] < 0:
            raise Stop
        return advance(self, *args)

    monkeypatch.setattr(TrainingRun, "advance", stopping)
    with pytest.raises(Stop):
        train(rows, tmp_path / "parts", spec, init_from=sae, **options)
    monkeypatch.undo()
    (parts,) = train(rows, tmp_path / "parts", resume=True, progress=False).values()
    assert parts.identity == whole.identity
    assert same_encoder(parts, sae)


def test_what_cannot_be_frozen_is_refused(rows, spoilt, tmp_path):
    options = {"tokens": 1000, "freeze_encoder": True, **QUICK}
    longer = replace(spoilt, W_dec=spoilt.W_dec * 2)
    for given, message in (
        ({}, "the decoder of an SAE that is there: say which, init_from"),
        ({"init_from": longer}, "decoder rows of .* are not unit vectors"),
        ({"init_from": replace(spoilt, k=4)}, "has k 4 and stays so; 3 was asked for"),
        ({"init_from": spoilt, "variant": "gated"}, "rows_k3_n48_gated would learn thresholds"),
        ({"init_from": spoilt.with_threshold(0.3), "variant": "multik"}, "multik orders the k largest"),
    ):
        with pytest.raises(UnboxError, match=message):
            fit(rows, 3, 48, **options, **given)
    with pytest.raises(UnboxError, match="say which, init_from"):
        train(noise(), tmp_path / "out", [Spec(k=2, latents=40)], **options)
    assert not (tmp_path / "out").exists()
