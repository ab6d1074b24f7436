"""The ground-truth benchmark from SAEs to its page, on the bundled model, as small as it gets."""

import json

import pytest

import unbox
from tests.edits.dictionaries import random_sae
from unbox.errors import UnboxError
from unbox.ground_truth.bench.benchmark import BenchSettings, bench_shapes
from unbox.ground_truth.bench.learned_change import LEARNED
from unbox.ground_truth.bench.methods import ARMS, SINGLE
from unbox.ground_truth.bench.scene_pairs import KINDS
from unbox.ground_truth.bench.score import ScoredRun, leaderboard

SMALL = BenchSettings(
    steps=1,
    captions=24,
    blocks_tried=1,
    sizes=(2,),
    strengths=(1.0, 4.0),
    draws=2,
    trial_cases=2,
    test_cases=2,
    pairs=1,
    transported=(8,),
    moved=(1.0,),
    values=(("colour", "red"),),
    methods=("untrained", "neurons", "pca", "steering", *LEARNED, "factors", SINGLE, *ARMS),
)


def bundled(number):
    """The model in a process of its own."""
    return unbox.load("shapes-turbo")


@pytest.mark.slow
def test_the_whole_benchmark(tmp_path):
    model = bundled(0)
    width = model.block("up.1.1").in_channels
    saes = {b: random_sae(b, width=width, latents=4 * width, k=8) for b in ("up.1.0", "up.1.1")}
    results = bench_shapes(model, saes, tmp_path / "out", SMALL, progress=False)
    assert {row["method"] for row in results["causation"]} == {
        "sae", "untrained", "neurons", "pca", "steering", "random", "factors", *LEARNED, SINGLE, *ARMS
    }  # fmt: skip
    by = {row["method"]: row for row in results["causation"]}
    assert len(by[SINGLE]["blocks"]) == 1
    assert by["guard"]["blocks"] == by["swap"]["blocks"] == by["sae"]["blocks"]
    assert all(0 <= share <= 1 for arm in ("guard", "channel-guard") for share in by[arm]["outside"].values())
    assert any(name.endswith(" channels") for name in by["guarded-swap"]["outside"])
    assert "outside" not in by["cleanest"]
    assert [point["strength"] for point in by["guard"]["curve"]] == [1.0, 4.0]
    assert [point["strength"] for point in by["swap"]["curve"]] == [0.5, 0.75, 1.0]
    swapped, shares = {0.5, 0.75, 1.0}, {0.7, 1.0, 2.8, 4.0}
    tried = {m: {trial["strength"] for trial in row["trials"]} for m, row in by.items() if m != "random"}
    assert tried == {m: swapped if m.endswith("swap") else shares if m in ARMS else {1.0, 4.0} for m in tried}
    assert all(row["strength"] in tried[m] for m, row in by.items() if m != "random")
    assert all(1 <= len(row["blocks"]) <= 2 for row in results["causation"] + results["removal"])
    assert {row["kind"] for row in results["ownership"]} == set(KINDS)
    assert all(
        0 <= row["success_low"] <= row["success"] <= row["success_high"] <= 1 for row in results["transport"]
    )
    assert json.loads((tmp_path / "out/results.json").read_text()) == json.loads(json.dumps(results))
    page = (tmp_path / "out/report.html").read_text()
    assert "colour: red" in page
    assert "<svg" in page
    assert all(0 <= row["artifacts_low"] <= row["artifacts"] <= 1 for row in results["causation"])
    assert set(results["mcc"]) == {"sae", "untrained", "neurons", "pca", "factors"}
    run = ScoredRun.read(tmp_path / "out")
    assert run.scores["mcc"] == results["mcc"]["sae"]
    assert "shapes" in leaderboard([run])
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/kept").iterdir()}
    assert bench_shapes(model, saes, tmp_path / "out", SMALL, progress=False) == results
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/kept").iterdir()} == kept
    shared = bench_shapes(model, saes, tmp_path / "shared", SMALL, False, 2, bundled)
    assert {path.name for path in (tmp_path / "shared/kept").iterdir()} == {path.name for path in kept}
    assert shared == results


def test_processes_need_to_be_told_how_to_load_the_model(tmp_path):
    with pytest.raises(UnboxError, match="2 processes need `load`"):
        bench_shapes(None, {"mid.0": None}, tmp_path, processes=2)


def test_without_saes_it_says_what_to_do(tmp_path):
    with pytest.raises(UnboxError, match="unbox train"):
        bench_shapes(None, {}, tmp_path)
