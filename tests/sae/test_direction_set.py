"""Named directions as an SAE: what they read, what is kept of them, and their random control."""

import json

import numpy as np
import pytest
import torch

from activation_store import Sample, Schema, Writer
from unbox.cli.sae import SAEImportCommand
from unbox.edit import Edits
from unbox.edits import random_control
from unbox.errors import UnboxError
from unbox.sae import SAE, direction_set, directions_of
from unbox.sae.direction_set import META, as_direction
from unbox.sae.interop import export_sae, import_sae
from unbox.sae.safetensors_io import write_tensors

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((500, 6)).astype(np.float32) + 3
VECTORS = {"green": 2 * np.eye(6)[0], "a star": np.array([0, 3.0, 4.0, 0, 0, 0])}


@pytest.fixture
def directions():
    return direction_set(
        "mid.0", VECTORS, ROWS, kind="difference of means", parts={"green": {"mid.0/3": 2.0}}
    )


def test_each_is_read_as_the_projection_less_the_mean_update(directions):
    unit = np.stack([each / np.linalg.norm(each) for each in VECTORS.values()])
    wanted = np.maximum((ROWS - ROWS.mean(0)) @ unit.T, 0)
    np.testing.assert_allclose(directions.encode(torch.from_numpy(ROWS)).dense(2), wanted, atol=1e-4)
    np.testing.assert_allclose(directions.stats.density, (wanted > 1e-6).mean(0), atol=0.01)
    np.testing.assert_allclose(directions.stats.max, wanted.max(0), atol=1e-4)
    deviation = np.sqrt(((ROWS - ROWS.mean(0)) ** 2).sum(1).mean())
    assert directions.update_std == pytest.approx(deviation, rel=1e-5)
    assert directions.name == "mid.0-difference-of-means"


def test_what_they_are_is_kept_in_the_folder(directions, tmp_path):
    directions.save(tmp_path / "set")
    first, second = directions_of(SAE.load(tmp_path / "set"))
    assert (first.label, first.kind, first.length) == ("green", "difference of means", 2.0)
    assert first.parts == {"mid.0/3": 2.0}
    assert (second.label, second.length, second.parts) == ("a star", 5.0, {})
    assert directions_of(SAE(*[torch.eye(2)] * 2, *[torch.zeros(2)] * 2, 1)) == ()


def test_other_files_of_directions_have_names_and_lengths_too(directions, tmp_path):
    export_sae(directions, tmp_path / "theirs", "directions")
    config = json.loads((tmp_path / "theirs" / "directions.json").read_text())
    assert config == {"block": "mid.0", "labels": ["green", "a star"], "kind": "difference of means"}
    read = import_sae(tmp_path / "theirs")
    assert [each.length for each in directions_of(read)] == [2.0, 5.0]
    assert torch.allclose(read.W_dec, directions.W_dec)
    (tmp_path / "theirs" / "directions.json").write_text('{"block": "mid.0", "labels": ["one"]}')
    with pytest.raises(UnboxError, match="has 2 directions"):
        import_sae(tmp_path / "theirs")


def test_the_control_of_one_is_a_random_vector_that_is_pushed_as_far(directions):
    edit = as_direction(directions.feature(1).add(3, unit="deviation"))
    np.testing.assert_allclose(edit.direction, [0, 0.6, 0.8, 0, 0, 0], atol=1e-6)
    (control,) = random_control(Edits((edit,)))
    assert control.direction != edit.direction
    pushed = control.value * directions.update_std  # a deviation along a direction, however long it is
    assert pushed == pytest.approx(3 * directions.update_std)
    mean = as_direction(directions.feature(0).add(2, unit="mean"))
    assert mean.value == pytest.approx(2 * float(directions.stats.mean_active[0]))
    swap = directions.feature(0).swap()
    assert as_direction(swap) == swap


@pytest.mark.parametrize(
    ("vectors", "message"),
    [({"a": np.zeros(6)}, "not zero"), ({"a": np.ones(5)}, "width 6"), ({"a": np.full(6, np.nan)}, "finite"),
     ({"": np.ones(6)}, "label"), ({}, "at least one")],
)  # fmt: skip
def test_vectors_that_cannot_be(vectors, message):
    with pytest.raises(UnboxError, match=message):
        direction_set("mid.0", vectors, ROWS)


def test_a_damaged_list_is_named(directions):
    directions.meta[META] = directions.meta[META][:1]
    with pytest.raises(UnboxError, match="list of 2 directions"):
        directions_of(directions)


def test_the_command_measures_them_on_a_store(directions, tmp_path):
    schema = Schema({"mid.0": (5, 10, 6)}, (0,), ("cond",), dtype="float32")
    with Writer(tmp_path / "acts", schema) as writer:
        updates = ROWS.reshape(10, 1, 1, 5, 10, 6)
        writer.append([Sample(i, "a", i) for i in range(10)], {"mid.0": updates})
    plain = tmp_path / "theirs" / "mid.0"
    plain.parent.mkdir()
    export_sae(directions, plain, "directions")
    (plain / "directions.safetensors").unlink()
    vectors = torch.from_numpy(np.stack(list(VECTORS.values())).astype(np.float32))
    write_tensors(plain / "directions.safetensors", {"directions": vectors})  # which say no mean
    out, theirs = tmp_path / "saes", plain.parent
    SAEImportCommand(theirs, out, "directions", store=str(tmp_path / "acts")).run()
    read = SAE.load(out / "mid.0")
    assert read.update_std == pytest.approx(directions.update_std, rel=1e-5)
    np.testing.assert_allclose(read.b_pre, ROWS.mean(0), atol=1e-4)
    np.testing.assert_allclose(read.stats.mean_active, directions.stats.mean_active, atol=1e-4)
