"""Sets of directions as SAEs: codes are positive projections, and what is more than that is refused."""

import numpy as np
import pytest
import torch

from tests.sae.worlds import noise
from unbox.errors import UnboxError
from unbox.sae import fit
from unbox.sae.interop import export_sae, import_all, import_sae, load_any
from unbox.sae.safetensors_io import write_tensors
from unbox.sae.transcoder import Transcoder

VECTORS = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
MEAN = np.arange(4, dtype=np.float32)


def written(folder, **tensors):
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "directions.safetensors", {n: torch.from_numpy(x) for n, x in tensors.items()})
    return folder


def test_codes_are_positive_projections_on_unit_vectors(tmp_path):
    sae = load_any(written(tmp_path / "mid.0", directions=VECTORS, mean=MEAN).parent)["mid.0"]
    rows = np.random.default_rng(1).standard_normal((20, 4)).astype(np.float32)
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    found = sae.encode(torch.from_numpy(rows)).dense(5).numpy()
    np.testing.assert_allclose(found, np.maximum((rows - MEAN) @ unit.T, 0), atol=1e-5)
    assert sae.block == "mid.0"
    export_sae(sae, tmp_path / "out", "directions")
    again = import_sae(tmp_path / "out")
    assert torch.equal(again.W_dec, sae.W_dec)
    assert again.block == "mid.0"


def test_what_is_no_set_of_directions_is_refused(tmp_path):
    wrong = {
        "is zero": {"directions": VECTORS * [[1], [0], [1], [1], [1]]},
        "not known": {"directions": VECTORS, "more": MEAN},
        "was expected": {"directions": VECTORS, "mean": MEAN[:3]},
        "no `directions`": {"directions": MEAN},
    }
    for number, (message, tensors) in enumerate(wrong.items()):
        given = {name: np.asarray(x, np.float32) for name, x in tensors.items()}
        with pytest.raises(UnboxError, match=message):
            import_all(written(tmp_path / str(number), **given))
    sae = fit(noise(), 3, 24, tokens=3000, batch_size=128, progress=False)
    with pytest.raises(UnboxError, match="its encoder is another"):
        export_sae(sae, tmp_path / "export", "directions")


def test_a_transcoder_is_refused_by_name(tmp_path):
    shapes = {"W_enc": (6, 4), "W_dec": (6, 4), "b_pre": (4,), "b_lat": (6,), "b_out": (4,)}
    weights = {name: torch.ones(shape) for name, shape in shapes.items()}
    Transcoder(weights, 2, "mid.0 input", "mid.0").save(tmp_path / "one")
    with pytest.raises(UnboxError, match=r"is a transcoder: its codes are of mid\.0 input"):
        load_any(tmp_path)
