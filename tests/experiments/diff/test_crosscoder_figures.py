"""Kinds of a crosscoder's latents, where it is known of which system each is."""

import numpy as np
import pytest
import torch

from tests.experiments.diff.planted_systems import GRID, WIDTH, store_of
from unbox.experiments.diff.crosscoder_figures import SOURCES, crosscoder_figures, kinds_of, relative_norms
from unbox.sae import SAE, Crosscoder
from unbox.sae.latent_scaling import latent_scaling


def sources(seed=0, images=30):
    """Rows of two systems by their channels: 5 is in the first alone, 7 in the other alone, 3 is weaker in
    the other, 9 is in both, which the crosscoder below does not know."""
    rng = np.random.default_rng(seed)
    rows = rng.uniform(1, 2, (images, 1, 1, GRID, GRID, WIDTH))
    rows *= rng.random(rows.shape) < 0.2
    first, other = rows.copy(), rows.copy()
    first[..., 7], other[..., 5] = 0, 0
    other[..., 3] *= 0.3
    return first.astype(np.float32), other.astype(np.float32)


def crosscoder(factors=(1.0, 1.0)) -> Crosscoder:
    """Latent i is channel i of both, as far as each has it; of 9 the other's decoder was shrunk."""
    first, other = torch.eye(WIDTH), torch.eye(WIDTH)
    first[7], other[5], other[9] = 0, 0, 0
    other[3] *= 0.3
    decoder = torch.nn.functional.normalize(torch.cat([first, other], 1), dim=1)
    meta = {"sources": {"names": list(SOURCES), "widths": [WIDTH, WIDTH], "factors": list(factors)}}
    zeros = torch.zeros(2 * WIDTH), torch.zeros(WIDTH)
    return Crosscoder(SAE(decoder.clone(), decoder, *zeros, WIDTH, meta=meta))


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    home = tmp_path_factory.mktemp("sources")
    pairs = zip(SOURCES, sources(), strict=True)
    return [store_of(home / name, rows)["mid.0"] for name, rows in pairs]


def test_each_latent_is_of_its_kind(stores):
    model = crosscoder()
    rows = np.concatenate([each.reshape(-1, WIDTH) for each in sources()], 1)
    place, cosine = relative_norms(model)
    kinds = kinds_of(place, cosine, latent_scaling(model, [rows]))
    found = {i: kind for i, kind in enumerate(kinds) if kind != "shared"}
    assert found == {3: "changed", 5: "first alone", 7: "other alone", 9: "not confirmed"}
    assert float(place[3]) == pytest.approx(0.5 * (1 + (0.3 - 1)), abs=1e-6)


def test_figures_count_kinds_and_list_what_is_not_shared(stores):
    found = crosscoder_figures(crosscoder(), *stores, 5)
    assert found["kinds"] == {
        "shared": 8, "changed": 1, "first alone": 1, "other alone": 1, "not confirmed": 1, "dead": 0,
    }  # fmt: skip
    assert sorted(each["index"] for each in found["latents"]) == [3, 5, 7, 9]
    assert found["rows"] == 30 * GRID * GRID
    assert found["fvu"]["first"] < found["fvu"]["other"]  # which the shrunk latent's channel is left over in


def test_rows_are_scaled_by_the_crosscoder_s_factors(stores):
    """Held-out rows have deviations of their own; codes are of those that it was trained with."""
    plain, scaled = (crosscoder_figures(crosscoder((f, f)), *stores, 5) for f in (1.0, 0.5))
    assert plain["fvu"]["first"] == pytest.approx(scaled["fvu"]["first"], rel=1e-4)
    assert plain["kinds"] == scaled["kinds"]
