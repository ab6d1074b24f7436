"""A dry run against the run that it plans: bytes on disk, rows, and nothing left behind."""

from dataclasses import replace

import pytest

from tests.experiments.diff.test_run_diff import drawn, small
from unbox.experiments.diff.estimate_diff import estimate_diff
from unbox.experiments.diff.run_diff import run_diff


def test_a_dry_run_is_true(tiny, tmp_path):
    run = small(tiny)
    run = replace(run, settings=replace(run.settings, tokens=None))
    run = drawn(run, systems=run.source.systems[:2])
    plan = estimate_diff(run, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    run_diff(run, tmp_path / "run")
    files = [path for path in (tmp_path / "run" / "stores").rglob("*") if path.is_file()]
    taken, planned = (
        sum(path.stat().st_size for path in files),
        sum(s.bytes_in_all for s in plan.stores.values()),
    )
    assert abs(planned / taken - 1) < 0.1
    assert plan.sets == 3
    images = len(run.source.prompts)
    per = {name: each.vectors_per_image for name, each in plan.stores.items()}
    assert per["tiny-2step"] == 2 * per["tiny-1step"]
    learned = images * (1 - run.settings.held_out)
    assert (
        abs(plan.tokens - 2 * learned * per["tiny-2step"]) < 2
    )  # whole rows; the system of one step comes twice
    held = images * run.settings.held_out * (per["tiny-1step"] + per["tiny-2step"])
    assert abs(plan.encoded - 4 * held) < 1  # for changes, and by three sets of SAEs
    weights = sum(p.stat().st_size for p in (tmp_path / "run" / "saes").rglob("*.safetensors"))
    finished = plan.sets * 32 * 128 * 2 * 4
    assert finished < weights < 1.2 * finished
    assert "in all" in plan.lines()[-1]


def test_crosscoders_are_planned_for(tiny, tmp_path):
    run = small(tiny, crosscoders=True, keep_steps=(0,))
    plain = replace(run, settings=replace(run.settings, crosscoders=False))
    crossed, alone = (estimate_diff(each, tmp_path / "run") for each in (run, plain))
    assert crossed.sets == alone.sets + 2 * 2
    assert crossed.sae_bytes > alone.sae_bytes


def test_figures_take_the_same_memory_for_a_million_images(tiny, tmp_path):
    run = small(tiny)
    large = drawn(run, prompts=run.source.prompts * 1000)
    few, many = (estimate_diff(each, tmp_path / "run") for each in (run, large))
    assert few.figures_bytes == many.figures_bytes
    assert few.training_bytes == many.training_bytes
    assert many.encoded == pytest.approx(1000 * few.encoded, rel=1e-3)
