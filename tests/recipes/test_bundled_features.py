"""What the package brings, from weights to the folder that is brought, in one line: small here."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from unbox.atlas import Atlas
from unbox.experiments import feature_strengths
from unbox.experiments.feature_strengths import read_strengths
from unbox.recipes import bundled_features, factor_brushes
from unbox.sae import directions_of, load_saes, read_toml
from unbox.shapes import FACTORS

ROOT = Path(__file__).parents[2]


def test_the_plan_is_the_one_that_the_examples_show():
    assert read_toml(ROOT / "examples/shapes_saes.toml") == bundled_features.PLAN


@pytest.mark.slow
def test_one_line_makes_all_of_it_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bundled_features, "IMAGES", 24)
    monkeypatch.setattr(bundled_features, "CAPTIONS", 60)
    monkeypatch.setattr(factor_brushes, "BRUSHED", {"texture": "up.0.1"})
    monkeypatch.setattr(factor_brushes, "PICTURES", 24)
    for name, few in {"PICTURES": 2, "USUAL": 8, "STRENGTHS": (4.0,)}.items():
        monkeypatch.setattr(feature_strengths, name, few)
    monkeypatch.setattr(bundled_features, "PLAN", replace(bundled_features.PLAN, tokens=8192))
    (tmp_path / "brought/saes/old").mkdir(parents=True)
    line = ["shapes-turbo", str(tmp_path / "made"), "--device", "cpu", "--seeds", "1", "2"]
    monkeypatch.setattr(sys, "argv", ["bundled_features", *line, "--bundle", str(tmp_path / "brought")])
    bundled_features.main()
    said = capsys.readouterr().out
    brought = load_saes(tmp_path / "brought/saes")
    assert set(brought) == {"down.2.1", "mid.0", "up.0.0", "up.0.1"}
    by_seed = {s: load_saes(tmp_path / f"made/seeds/{s}") for s in (1, 2)}
    told = {s: float(said.split(f"seed {s}: ")[1].split()[0]) for s in by_seed}
    best = {s for s in by_seed if told[s] == max(told.values())}
    digests = {s: {name: sae.digest for name, sae in saes.items()} for s, saes in by_seed.items()}
    assert {name: sae.digest for name, sae in brought.items()} in [digests[s] for s in best]
    assert digests[1] != digests[2]
    assert set(Atlas.open(tmp_path / "brought/atlas").identities.values()) == {
        sae.identity for sae in brought.values()
    }
    assert read_strengths(tmp_path / "brought/strengths.json").usual > 0
    (brushes,) = factor_brushes.load_brushes(tmp_path / "brought").values()
    assert [each.label for each in directions_of(brushes)] == list(FACTORS["texture"])
    scores = json.loads((tmp_path / "made/told.json").read_text())
    assert all(0 <= score <= 1 for score in scores.values())
    assert scores
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "made/saes").rglob("*.safetensors")}
    bundled_features.main()
    assert {path: path.stat().st_mtime_ns for path in made} == made
