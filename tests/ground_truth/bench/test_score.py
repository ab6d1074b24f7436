"""What is said of several runs: noise over seeds, checkpoints in order, a table that can be made again."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from tests.edits.dictionaries import random_sae
from unbox.errors import UnboxError
from unbox.ground_truth.bench.bench_settings import BenchSettings
from unbox.ground_truth.bench.dictionary_record import by_block, scored
from unbox.ground_truth.bench.score import ScoredRun, discriminability, leaderboard, reseed_noise
from unbox.sae.interop import export_sae, load_any

ABOUT = {"command": "unbox bench shapes", "commit": "0123456789abcdef", "date": "2026-11-26"}


def run(label, mcc, seed=0, tokens=100, artifacts=0.1):
    return ScoredRun(label, {"mcc": mcc, "artifacts": artifacts}, seed, tokens, ABOUT)


def test_reseed_noise_is_the_deviation_within_each_training():
    first, second = [0.5, 0.6, 0.7], [0.1, 0.3]
    runs = [run("a", s, seed=i) for i, s in enumerate(first)] + [
        run("b", s, seed=i) for i, s in enumerate(second)
    ]
    runs += [run("a", 0.9, tokens=200), run("c", 0.2)]  # alone: another length, another kind
    squares = np.var(first) * 3 + np.var(second) * 2
    assert reseed_noise(runs)["mcc"] == pytest.approx((squares / 3) ** 0.5)
    assert reseed_noise(runs[-2:]) == {}


def test_discriminability_is_the_share_of_pairs_in_order():
    scores, artifacts = [0.2, 0.3, 0.25, 0.25], [0.4, 0.3, 0.2, 0.1]
    runs = [
        run("a", s, tokens=t, artifacts=a) for t, (s, a) in enumerate(zip(scores, artifacts, strict=True))
    ]
    runs += [run("a", 0.0, seed=1, tokens=9), run("b", 0.0, tokens=9)]
    found = discriminability(runs)
    assert found["mcc"] == pytest.approx((1 + 1 + 1 + 0 + 0 + 0.5) / 6)
    assert found["artifacts"] == 1  # less is better
    assert discriminability(runs[:1]) == {}


def test_the_table_names_command_commit_and_date_of_each_row():
    text = leaderboard([run("a", 0.5), run("b", 0.7), run("b", 0.9, seed=1)])
    lines = text.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| b", "| b", "| a"]
    assert all("2026-11-26 | 0123456789ab | `unbox bench shapes`" in line for line in lines[2:5])
    assert "| reseed noise: deviation over seeds of the SAE | 0.141" in text
    assert "discriminability" not in text


def test_a_run_is_read_from_its_folder(tmp_path):
    with pytest.raises(UnboxError, match=r"has no score\.json"):
        ScoredRun.read(tmp_path)
    found = {"label": "a", "scores": {"mcc": 0.5}, "seed": 3, "tokens": None, "command": "c", "commit": "d"}
    (tmp_path / "score.json").write_text(json.dumps(found))
    os.utime(tmp_path / "score.json", (0, 86400 * 365))
    read = ScoredRun.read(tmp_path)
    assert (read.label, read.seed, read.tokens, read.about["date"]) == ("a", 3, None, "1971-01-01")


def test_anybodys_dictionary_is_read_and_named(tmp_path):
    sae = random_sae("mid.0", width=6, latents=12, k=3)
    export_sae(sae, tmp_path / "theirs" / "one", "saelens")
    read = load_any(tmp_path / "theirs")
    assert {s.latents for s in read.values()} == {12}
    sae.save(tmp_path / "ours" / "mid.0")
    assert set(load_any(tmp_path / "ours")) == {"mid.0"}
    with pytest.raises(UnboxError, match=r"both of mid\.0"):
        by_block({"a": sae, "b": sae})

    class Named:
        system = type("System", (), {"name": "shapes"})

    results = {
        "meaning": [], "causation": [], "reliable": {}, "mcc": {"sae": 0.4},
        "removal": [], "ownership": [], "transport": [],
    }  # fmt: skip
    found = scored(results, Named(), {"mid.0": sae}, BenchSettings(captions=40, sizes=(2, 3)))
    assert found["scores"]["mcc"] == 0.4
    assert found["command"].endswith("--model shapes --captions 40 --sizes 2 3")
    assert "12 latents, k 3, 1 blocks" in found["label"]
    snapshot = replace(sae, meta={"training": {"tokens": 600, "seed": 2, "seen": 64}})
    row = scored(results, Named(), {"mid.0": snapshot}, BenchSettings(captions=40))
    assert (row["seed"], row["tokens"]) == (2, 64)
