"""Betas against least squares written out, and against sources whose latents are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unbox.errors import UnboxError
from unbox.sae import SAE, Crosscoder
from unbox.sae.latent_scaling import latent_scaling

WIDTH, LATENTS, K = 6, 10, 3


def crosscoder(decoder: np.ndarray, widths=(WIDTH, WIDTH)) -> Crosscoder:
    """A crosscoder of two sources with this decoder (n, 12), which encodes by it; factors 1."""
    weights = torch.from_numpy(decoder.astype(np.float32))
    meta = {"sources": {"names": ["a", "b"], "widths": list(widths), "factors": [1.0, 1.0]}}
    zeros = torch.zeros(weights.shape[1]), torch.zeros(len(weights))
    return Crosscoder(SAE(weights.clone(), weights, *zeros, K, meta=meta))


def random_decoder(seed=0):
    decoder = np.random.default_rng(seed).normal(size=(LATENTS, 2 * WIDTH))
    return decoder / np.linalg.norm(decoder, axis=1, keepdims=True)


def test_betas_are_least_squares():
    rng, decoder = np.random.default_rng(1), random_decoder()
    model = crosscoder(decoder)
    rows = rng.normal(size=(700, 2 * WIDTH)).astype(np.float32)
    found = latent_scaling(model, [rows[:300], rows[300:]])
    codes = model.sae.encode(torch.from_numpy(rows)).dense(LATENTS).numpy().astype(float)
    whole = codes @ decoder
    for j in range(LATENTS):
        parts = decoder[j].reshape(2, WIDTH)
        own = int(np.linalg.norm(parts, axis=1).argmax())
        assert int(found.own[j]) == own
        assert int(found.active[j]) == int((codes[:, j] > 0).sum())
        regressor = (codes[:, j, None] * parts[own]).reshape(-1, 1)
        for s in (0, 1):
            columns = slice(s * WIDTH, (s + 1) * WIDTH)
            part = codes[:, j, None] * parts[s]
            for target, beta in (
                (rows[:, columns] - whole[:, columns] + part, found.error),
                (whole[:, columns] - part, found.reconstruction),
            ):
                truth = np.linalg.lstsq(regressor, target.reshape(-1), rcond=None)[0][0]
                assert float(beta[j, s]) == pytest.approx(truth, abs=1e-5)


def test_a_latent_of_one_source_is_told_from_one_that_training_shrank():
    """Latent 0 is in `a` alone. Latent 1 is in both as much, its decoder in `b` is zero: it is in b's error.
    Latent 2 is in both, but `b` has it by latent 3: it is in b's reconstruction."""
    directions = np.linalg.qr(np.random.default_rng(2).normal(size=(WIDTH, WIDTH)))[0]
    decoder = np.zeros((4, 2 * WIDTH))
    for j, at in ((0, 0), (1, 1), (2, 2)):
        decoder[j, :WIDTH] = directions[at]
    decoder[3, WIDTH:] = directions[2]
    f = np.random.default_rng(3).uniform(1, 2, (4000, 3))
    f *= np.random.default_rng(4).random(f.shape) < 0.5
    rows = np.concatenate([f @ directions[:3], f[:, 1:] @ directions[1:3]], 1)
    model = crosscoder(decoder)
    model.sae.b_pre.zero_()
    found = latent_scaling(model, [rows.astype(np.float32)])
    assert found.own.tolist() == [0, 0, 0, 1]
    assert found.error[:3, 0].tolist() == pytest.approx([1, 1, 1], abs=0.05)
    assert found.nu_error[:3].tolist() == pytest.approx([0, 1, 0], abs=0.05)
    assert found.reconstruction[:3, 1].tolist() == pytest.approx([0, 0, 1], abs=0.05)


def test_what_cannot_be_scaled_is_refused():
    with pytest.raises(UnboxError, match="two sources of one width; these are a 5, b 7"):
        latent_scaling(crosscoder(random_decoder(), (5, 7)), [])


def test_a_latent_that_is_never_active_has_no_beta():
    model = crosscoder(random_decoder())
    silent = Crosscoder(replace(model.sae, b_lat=model.sae.b_lat - torch.eye(LATENTS)[0] * 1e6))
    rows = np.random.default_rng(0).normal(size=(50, 2 * WIDTH)).astype(np.float32)
    found = latent_scaling(silent, [rows])
    assert int(found.active[0]) == 0
    assert found.error[0].isnan().all()
