"""Options under former names: keywords, files, and the hashes that name results."""

from dataclasses import asdict

import pytest

from unbox.errors import UnboxError
from unbox.experiments.experiment_plan import make_plan as make_experiment
from unbox.experiments.riebench import riebench_settings
from unbox.former_names import as_written, renamed
from unbox.ground_truth.bench import bench_settings
from unbox.ground_truth.demo import demo_plan
from unbox.sae import plan


def test_an_option_given_twice_is_refused():
    with pytest.raises(UnboxError, match="clip is now called clip_norm; give it once"):
        renamed({"clip": 1, "clip_norm": 2}, plan.FORMER)


@pytest.mark.parametrize(
    ("kind", "former"),
    [
        (plan.Plan, plan.FORMER),
        (demo_plan.DemoPlan, demo_plan.FORMER),
        (bench_settings.BenchSettings, bench_settings.FORMER),
        (riebench_settings.RiebenchSettings, riebench_settings.FORMER),
    ],
)
def test_files_and_hashes_keep_the_names_that_they_had(kind, former):
    settings = asdict(kind())
    written = as_written(settings, former)
    assert written.keys() == {*settings} - {*former.values()} | {*former}
    assert renamed(written, former) == settings


def test_plans_of_training_read_both_names():
    with pytest.warns(DeprecationWarning, match="clip= is now called clip_norm="):
        made = plan.make_plan([plan.Spec("mid.0")], clip=0.5)
    assert made == plan.make_plan([plan.Spec("mid.0")], clip_norm=0.5)
    assert made.to_json()["clip"] == 0.5
    assert plan.Plan.from_json(made.to_json()) == made
    assert plan.Plan.from_json({"init": "subspace"}) == plan.Plan.from_json({"start": "subspace"})


def test_experiments_read_both_names():
    file = {
        "model": "shapes-turbo",
        "prompts": ["a"],
        "edit": [{"block": "mid.0", "op": "scale", "value": 0.0}],
    }
    file["metrics"] = ["clip"]
    assert make_experiment({**file, "clip": "X"}).clip_model == "X"
    assert make_experiment({**file, "clip_model": "X"}).clip_model == "X"
