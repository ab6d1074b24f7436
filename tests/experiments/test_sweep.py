"""An experiment from its file to its tables: complete, resumable, the same whichever way it got there."""

import csv
import json

import numpy as np
import pytest

from tests.edits.dictionaries import random_sae
from unbox.errors import UnboxError
from unbox.experiments.experiment_plan import make_plan, read_plan
from unbox.experiments.sweep import run_experiment
from unbox.result_cache import key_of

FILE = """
title = "Small"
model = "tiny"
saes = "saes"
prompts = ["a cat", "a red boat"]
seeds = [0, 1]
steps = 1
guidance = 0.0
height = 64
width = 64
batch_size = 3
metrics = ["pixels", "colour"]

[[edit]]
name = "ablate"
op = "scale"
value = 0.0
where = { box = [0.0, 0.0, 0.5, 1.0] }
grid = { block = ["mid.0", "up.1.2"] }

[[edit]]
name = "more"
block = "up.0.1"
feature = 7
op = "add"
unit = "mean"
control = 1
grid = { value = [5, 50, 500] }
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "small.toml").write_text(FILE)
    random_sae("up.0.1", width=128, latents=256, k=8, seed=0).save(tmp_path / "saes" / "up.0.1")
    return tmp_path / "small.toml"


def run(file, out, tiny):
    return run_experiment(read_plan(file), out, model=tiny, progress=False)


def test_a_sweep_ends_in_tables_plots_and_a_page(file, tmp_path, tiny):
    table = run(file, tmp_path / "out", tiny)
    assert len(table) == (2 + 3 * 2) * 2 * 2
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["rows"] == len(table) + 4
    assert manifest["plan"]["title"] == "Small"
    assert len(list((tmp_path / "out/images").iterdir())) == len(table) + 4
    with (tmp_path / "out/summary.csv").open() as lines:
        means = list(csv.DictReader(lines))
    assert len(means) == 8
    plain = [float(m["rmse"]) for m in means if m["edit"] == "more" and m["control"] == "-1"]
    assert plain == sorted(plain)
    assert plain[0] < plain[-1]
    assert all(float(m["rmse_low"]) <= float(m["rmse"]) <= float(m["rmse_high"]) for m in means)
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("data:image/png") == 2 * 9
    assert "more (random features 0): value=50" in page

    from pyarrow import parquet

    held = parquet.read_table(tmp_path / "out/rows.parquet").to_pylist()
    assert [row["rmse"] for row in held] == [row["rmse"] for row in table]

    stopping = Stopping(tiny)
    assert run(file, tmp_path / "out", stopping) == table  # a finished sweep is only read
    assert stopping.calls == 0


class Stopping:
    """The model, stopped by the user at its second batch."""

    def __init__(self, model):
        self.model, self.calls = model, 0

    def __getattr__(self, name):
        return getattr(self.model, name)

    def generate(self, *args, **options):
        self.calls += 1
        if self.calls == 2:
            raise KeyboardInterrupt
        return self.model.generate(*args, **options)


def test_a_stopped_sweep_goes_on_to_the_same_result(file, tmp_path, tiny):
    whole = run(file, tmp_path / "whole", tiny)
    with pytest.raises(KeyboardInterrupt):
        run(file, tmp_path / "parts", Stopping(tiny))
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts/images").iterdir()}
    assert len(made) == 3
    again = run(file, tmp_path / "parts", tiny)
    assert again == whole
    assert {path: path.stat().st_mtime_ns for path in made} == made
    names = {path.name for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    assert names == {path.name for path in (tmp_path / "parts").rglob("*") if path.is_file()}


def test_figures_of_a_metric_that_was_redefined_are_measured_anew_from_the_images(file, tmp_path, tiny):
    """Versions before cut SSIM's window at 7 pixels: what they measured does not stand beside what is now."""
    file.write_text(FILE.replace('"colour"', '"structure"'))
    table = run(file, tmp_path / "out", tiny)
    rows = list((tmp_path / "out/rows").iterdir())
    before = key_of([["pixels", "structure"], None], 8)
    assert len(rows) == len(table)
    assert not any(path.stem.endswith(before) for path in rows)
    for path in rows:
        path.with_name(f"{path.name.split('-')[0]}-{before}.json").write_text('{"rmse": 9.0, "dssim": 9.0}')
        path.unlink()
    stopping = Stopping(tiny)
    assert run(file, tmp_path / "out", stopping) == table
    assert stopping.calls == 0


MINIMAL = {"model": "tiny", "prompts": ["a"], "edit": [{"block": "mid.0", "op": "scale", "value": 0}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"promts": ["a"]}, "no 'promts'"),
        ({"prompts": []}, "no prompts"),
        ({"prompts": {"hub": "x"}}, "prompts are"),
        ({"edit": [{"block": "mid.0", "op": "scale", "strength": 1}]}, "no 'strength'"),
        ({"edit": [{"op": "scale", "grid": {"size": [1]}}]}, "grid of an edit has no 'size'"),
        ({"edit": [{"block": "mid.0", "op": "melt"}]}, "'melt'"),
        ({"edit": MINIMAL["edit"] * 2}, "two edits"),
        ({"edit": [{**MINIMAL["edit"][0], "control": 1}]}, "random-feature"),
        ({"edit": [{**MINIMAL["edit"][0], "target": ["colour", "beige"]}]}, "target"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(UnboxError, match=message):
        make_plan({**MINIMAL, **change})


def test_mistakes_are_found_before_anything_is_written(tmp_path, tiny):
    for change, message in [
        ({"block": "down.0.0"}, "no block"),
        ({"block": "up.0.1", "op": "add", "feature": 3}, "no SAE"),
        ({"where": "object"}, "Shapes world only"),
    ]:
        plan = make_plan({**MINIMAL, "edit": [{**MINIMAL["edit"][0], **change}]})
        with pytest.raises(UnboxError, match=message):
            run_experiment(plan, tmp_path / "out", model=tiny, progress=False)
        assert not (tmp_path / "out").exists()
    with pytest.raises(UnboxError, match="there is no file"):
        read_plan(tmp_path / "none.toml")


def test_shapes_prompts_and_places():
    from unbox.experiments.sweep import _rows

    edit = {"name": "gone", "block": "mid.0", "op": "scale", "value": 0.0}
    data = {
        **MINIMAL,
        "prompts": {"shapes": 3, "seed": 5},
        "edit": [{**edit, "where": "object"}, {**edit, "name": "around", "where": "background"}],
    }
    rows = [row for row in _rows(make_plan(data), {}) if row.condition is not None]
    inside, around = rows[:3], rows[3:]
    for a, b in zip(inside, around, strict=True):
        assert np.allclose(a.edits[0].where.array + b.edits[0].where.array, 1)
    assert len({row.edits[0].where for row in inside}) == 3
