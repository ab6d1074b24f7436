"""The erasure benchmark at its smallest on the bundled model: every method, its table, and going on."""

import csv
from dataclasses import replace

import numpy as np
import pytest

import unbox
from unbox.ground_truth.bench.erasure_benchmark import MEASURES, bench_erasure, markdown
from unbox.ground_truth.bench.erasure_rules import RULES, FactorRecords
from unbox.ground_truth.bench.erasure_settings import ErasureSettings
from unbox.sae import fit
from unbox.shapes import prompts as captions

SETTINGS = ErasureSettings(
    captions=24, blocks_tried=1, percentiles=(90.0,), multipliers=(-5.0,), sizes=(2,), steered=(1.0,),
    negative_guidance=(2.0,), draws=2, trial_cases=1, test_cases=2, values=(("size", "large"),), batch_size=8,
)  # fmt: skip


def bundled(number):
    """The model in a process of its own."""
    return unbox.load("shapes-turbo")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("erasure")
    model = unbox.load("shapes-turbo")
    told = captions(16, 1, "train", True, 0.0)
    store = unbox.collect(model, told, home / "store", blocks=["up.1.0"], steps=1, progress=False)
    sae = fit(store["up.1.0"], k=4, latents=64, tokens=2048, batch_size=256, progress=False)
    rows = bench_erasure(model, {"up.1.0": sae}, home / "out", SETTINGS, progress=False)
    return home, model, sae, rows


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*guidance is distilled")
def test_every_method_is_measured_and_a_second_run_only_reads(made):
    home, model, sae, rows = made
    assert [row["method"] for row in rows] == [*RULES, "random"]
    for row in rows:
        assert row["cases"] == 4
        for name in MEASURES:
            assert 0 <= row[f"{name}_low"] <= row[name] <= row[f"{name}_high"] <= 1
    for row in rows[:-1]:
        best = max(row["trials"], key=lambda trial: np.mean([trial[name] for name in MEASURES[:3]]))
        assert best["option"] == row["option"]
        assert all(trial["cases"] == 2 for trial in row["trials"])
    with (home / "out" / "trials.csv").open() as file:
        kept = [(row["method"], row["option"], float(row["UA"])) for row in csv.DictReader(file)]
    expected = [(row["method"], t["option"], t["UA"]) for row in rows[:-1] for t in row["trials"]]
    assert kept == expected
    assert "trials" not in (home / "out" / "rows.csv").read_text()
    again = bench_erasure(model, {"up.1.0": sae}, home / "out", SETTINGS, progress=False)
    assert again == rows
    several = {"processes": 2, "load": bundled, "progress": False}
    with_another = replace(SETTINGS, values=(*SETTINGS.values, ("light", "dim")))
    shared = bench_erasure(model, {"up.1.0": sae}, home / "shared", with_another, **several)
    assert [row for row in shared if row["value"] == "large"] == rows
    assert {row["value"] for row in shared} == {"large", "dim"}
    text = (home / "out" / "erasure.md").read_text()
    assert text == markdown(rows)
    assert "| size large | swap | up.1.0, 2 |" in text
    assert (home / "out" / "rows.csv").is_file()


@pytest.mark.slow
def test_records_are_means_of_each_values_rows(made):
    from activation_store import Store

    home, _, sae, _ = made
    rows = Store.open(home / "out" / "store")["up.1.0"]
    some = {"a": rows.filter(samples=[0, 1]), "b": rows.filter(samples=[2])}
    of = FactorRecords.of(sae, some)
    exact = {name: np.mean([x.read(i) for i in range(x.shape[0])], (0, 2, 3, 4)) for name, x in some.items()}
    np.testing.assert_allclose(of.difference("a"), exact["a"] - exact["b"], atol=1e-5)
