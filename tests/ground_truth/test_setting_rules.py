"""What the settings of benchmark, demo and recipe refuse, before a model is loaded."""

from dataclasses import fields

import pytest

from unbox.errors import UnboxError
from unbox.experiments.riebench.riebench_settings import RiebenchSettings
from unbox.ground_truth.bench.bench_settings import BenchSettings
from unbox.ground_truth.demo.demo_plan import DemoPlan
from unbox.shapes import FACTORS

REFUSED = [
    (BenchSettings, {"steps": 0}, "BenchSettings: steps = 0: should be at least 1"),
    (BenchSettings, {"seed": 2**43}, "seed = 8796093022208: should be less than"),
    (BenchSettings, {"strengths": [1, float("nan")]}, r"strengths\[1\] = nan: should be a finite number"),
    (BenchSettings, {"sizes": []}, r"sizes = \(\): should hold at least one"),
    (BenchSettings, {"values": [("colour", "beige")]}, r"values\[0\] = .*: is no value of the Shapes world"),
    (BenchSettings, {"values": [3]}, r"values\[0\] = 3: is no value"),
    (BenchSettings, {"captions": 10**10}, "a benchmark of 10,000,000,000 captions .* would take 41 TB"),
    (BenchSettings, {"test_cases": 10**10}, "would take .*TB of memory"),
    (DemoPlan, {"k": 600}, "DemoPlan: k = 600: should be at most latents, which is 512"),
    (DemoPlan, {"searched": 2001}, "searched = 2001: should be at most captions, which is 2,000"),
    (DemoPlan, {"trial_cases": 31}, "trial_cases = 31: should be at most trial_pool, which is 30"),
    (DemoPlan, {"latents": 16}, r"sizes = \(8, 24\): should be at most latents, which is 16"),
    (DemoPlan, {"values": []}, r"values = \(\): should hold at least one"),
    (DemoPlan, {"latents": 10**10}, "10,000,000,000 latents would take .*TB of memory"),
    (RiebenchSettings, {"metrics": ["dssim"]}, "metrics = 'dssim': is unknown"),
    (RiebenchSettings, {"clip_model": "x"}, "clip_model = 'x': is for the metric clip"),
    (RiebenchSettings, {"counts": [0]}, r"counts\[0\] = 0: should be at least 1"),
]


@pytest.mark.parametrize(("kind", "given", "message"), REFUSED)
def test_refused(kind, given, message):
    with pytest.raises(UnboxError, match=message):
        kind(**given)


def test_settings_without_values_are_of_all():
    assert len(BenchSettings().values) == sum(map(len, FACTORS.values()))
    assert BenchSettings(values=["colour", "red"][:0]).values == BenchSettings().values


def test_what_names_the_demos_stages_stays():
    """Whole numbers and the usual number of searched pictures, in keys that hold results."""
    assert DemoPlan(captions=24).part("values", "searched")["searched"] == 1000
    names = {field.name for field in fields(DemoPlan)}
    assert {"steps", "guidance"} < names
