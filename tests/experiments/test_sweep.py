"""An experiment from its file to its tables: complete, resumable, the same whichever way it got there."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from tests.edits.dictionaries import random_sae
from unbox.errors import UnboxError
from unbox.experiments.critics import BY_CLIP, METRIC_NAMES
from unbox.experiments.experiment_plan import make_plan, read_plan
from unbox.experiments.metrics import METRICS
from unbox.experiments.report import write_report
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
height = 32
width = 32
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
        ({"promts": ["a"]}, r"promts = \['a'\]: is unknown, is it prompts\?"),
        ({"prompts": []}, "no prompts"),
        ({"prompts": {"hub": "x"}}, "prompts = {'hub': 'x'}: should be a list"),
        (
            {"edit": [{"block": "mid.0", "op": "scale", "power": 1}]},
            r"\] 1: power = 1: is unknown",
        ),
        (
            {"edit": [{"block": "mid.0", "op": "scale", "strength": 1}]},
            r"\] 1: strength = 1: should be one of 'auto'",
        ),
        (
            {"edit": [{"op": "scale", "grid": {"size": [1]}}]},
            r"1: grid.size = \[1\]: is unknown",
        ),
        ({"edit": [{"block": "mid.0", "op": "melt"}]}, "'melt'"),
        ({"edit": MINIMAL["edit"] * 2}, "two edits"),
        ({"edit": [{**MINIMAL["edit"][0], "control": 1}]}, "random-feature"),
        ({"edit": [{**MINIMAL["edit"][0], "target": ["colour", "beige"]}]}, "target"),
        ({"edit": [{**MINIMAL["edit"][0], "target": []}]}, "target"),
        ({"edit": 3}, r"edit\[0\] = 3: should be an object"),
        ({"edit": [3]}, r"edit\[0\] = 3: should be an object"),
        ({"edit": [{**MINIMAL["edit"][0], "grid": 5}]}, r"\[\[edit\]\] 1: grid = 5: should be an object"),
        ({"edit": [{"op": "scale", "grid": {"block": "mid.0"}}]}, "grid.block = 'mid.0': should be a list"),
        ({"edit": [{"op": "scale", "grid": {"block": []}}]}, r"grid.block = \[\]: should be a list"),
        ({"edit": [{**MINIMAL["edit"][0], "control": "x"}]}, "control = 'x': should be a whole number"),
        ({"edit": [{**MINIMAL["edit"][0], "control": -1}]}, "control = -1: should be at least 0"),
        ({"edit": [{**MINIMAL["edit"][0], "control": 10**9}]}, "control = 1000000000: should be at most"),
        ({"edit": [{**MINIMAL["edit"][0], "file": 3}]}, "file = 3: should be the path"),
        ({"edit": [{**MINIMAL["edit"][0], "file": "e.json"}]}, "file says all of the edits"),
        ({"edit": [{**MINIMAL["edit"][0], "edits": MINIMAL["edit"]}]}, "edits says all of the edits"),
        ({"edit": [{**MINIMAL["edit"][0], "name": 3}]}, "name = 3: should be a text"),
        ({"edit": [{**MINIMAL["edit"][0], "where": {"image": 3}}]}, "where: image = 3: should be the path"),
        ({"seeds": 3}, r"seeds = 3: should be a list of seeds, like \[0, 1\]"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, r"seeds = \(1, 1\): should differ"),
        ({"seeds": [-1]}, r"seeds\[0\] = -1: should be at least 0"),
        ({"batch_size": 0}, "batch_size = 0: should be at least 1"),
        ({"steps": 0}, "steps = 0: should be at least 1"),
        ({"guidance": -1}, "guidance = -1: should be at least 0"),
        ({"height": 12}, "height = 12: should be a multiple of 8"),
        ({"metrics": ["pixel"]}, "metrics = 'pixel': is unknown, is it pixels?"),
        ({"metrics": ["clip"]}, "clip_model = None: should be a Hub id"),
        ({"clip_model": "x"}, "clip_model = 'x': is for the metric clip"),
        ({"model": 3}, "model = 3: should be a text"),
        ({"saes": 3}, "saes = 3: should be the path"),
        ({"source": {}}, "source = {}: is unknown"),
        ({"prompts": {"file": 3}}, "prompts: file = 3: should be the path"),
        ({"prompts": {"shapes": "x"}}, "prompts: shapes = 'x': should be a whole number"),
        ({"prompts": {"shapes": 2**29}}, "536,870,912 captions would take 2.2 TB of memory"),
        ({"prompts": {"shapes": 2, "split": "x"}}, "prompts: split = 'x': should be one of"),
        ({"prompts": {"shapes": 2, "speed": 1}}, "prompts: speed = 1: is unknown, is it seed?"),
        ({"prompts": 3}, "prompts = 3: should be a list"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(UnboxError, match=message):
        make_plan({**MINIMAL, **change})


def test_grids_are_counted_before_they_are_made():
    axes = {"block": ["mid.0"] * 1000, "value": [float(i) for i in range(1000)]}
    table = {"op": "scale", "grid": {**axes, "steps": [[0]] * 1000}, "control": 9999}
    with pytest.raises(UnboxError, match="a grid of 10,000,000,000,000 conditions would take"):
        make_plan({**MINIMAL, "edit": [table]})
    values = {"op": "scale", "block": "mid.0", "grid": {"value": list(range(200))}}
    many = {"prompts": ["a"] * 10_000, "seeds": list(range(10_000)), "edit": [values]}
    with pytest.raises(UnboxError, match="an experiment of 20,100,000,000 images would take"):
        make_plan({**MINIMAL, **many})


def test_figures_of_sampling_are_named_as_the_file_writes_them():
    """0 and 0.0 are other JSON, and so other names of results."""
    for value in (0, 0.0):
        (found,) = make_plan({**MINIMAL, "guidance": value}).sampling.values()
        assert type(found) is type(value)
    assert set(METRIC_NAMES) == {*METRICS, "lpips", *BY_CLIP}


def test_a_page_of_large_pictures_stays_small(tmp_path):
    """Of 1024 px and pure noise, which compresses worst: a sixth of the page that 6 prompts and 24 conditions
    give."""
    conditions = {"value": [float(i) for i in range(24)]}
    edit = {"name": "less", "op": "scale", "block": "mid.0", "grid": conditions}
    plan = make_plan({**MINIMAL, "prompts": ["a cat"], "edit": [edit]})
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(noise).save(tmp_path / "images" / "large.png", compress_level=0)
    about = {"edit": "less", "control": -1, "prompt": "a cat", "prompt_index": 0, "seed": plan.seeds[0]}
    images = {"image": "images/large.png", "unedited": "images/large.png"}
    table = [{"condition": c.label, **about, **images, "rmse": 0.5} for c in plan.conditions]
    page = write_report(plan, table, tmp_path)
    assert page.read_text().count('<a href="images/large.png"><img src="data:image/webp') == 25
    assert 6 * page.stat().st_size < 20e6


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
