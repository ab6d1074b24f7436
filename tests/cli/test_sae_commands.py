"""The commands on a small store: train, evaluate, sae info, export and import."""

import json

import numpy as np
import pytest
import torch

from tests.activation_store import fakes
from unbox.cli.main import main
from unbox.sae import SAE, load_saes
from unbox.sae.held_out import chosen_by_hash


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "acts"
    fakes.make(path, count=60)
    return path


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("saes") / "saes"
    words = ["--k", "2", "--latents", "16", "--tokens", "2000", "--batch-size", "128", "--held-out", "0.1"]
    assert main(["train", "--store", str(store), "--out", str(out), *words]) == 0
    return out


def test_train_writes_every_block(trained, capsys):
    saes = load_saes(trained)
    assert list(saes) == ["mid.0", "up.1.0"]
    assert saes["mid.0"].meta["figures"]["rows_from"] == "held-out rows"
    held_out = int(chosen_by_hash(np.arange(60), 0.1).sum())
    assert saes["mid.0"].meta["figures"]["rows"] == held_out * 2 * 2 * 4
    assert len({g["step"] for g in saes["mid.0"].meta["figures"]["groups"]}) == 3
    assert saes["up.1.0"].meta["provenance"]["store"]
    assert main(["sae", "info", str(trained)]) == 0
    assert "mid.0: 16 latents of width 8, k 2" in capsys.readouterr().out


def test_the_same_line_again_changes_nothing(store, trained, capsys):
    before = {
        p: p.stat().st_mtime_ns for p in trained.rglob("*") if p.is_file() and p.name != "metrics.jsonl"
    }
    assert main(["train", "--store", str(store), "--out", str(trained), "--resume", "--held-out", "0.1"]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert "FVU" in capsys.readouterr().out
    assert main(["train", "--store", str(store), "--out", str(trained), "--k", "3", "--held-out", "0.1"]) == 2
    assert "other" in capsys.readouterr().err


def test_evaluate(store, trained, tmp_path, capsys):
    words = ["--saes", str(trained), "--store", str(store), "--out", str(tmp_path / "report"), "--stability"]
    assert main(["evaluate", *words]) == 0
    figures = json.loads((tmp_path / "report" / "figures.json").read_text())
    assert set(figures) == {"mid.0", "up.1.0"}
    assert len(figures["mid.0"]["groups"]) == 2 + 2 + 4
    assert "uncond" in capsys.readouterr().out
    assert (tmp_path / "report" / "stability.md").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "report" / "kept").iterdir()}
    assert len(kept) == 2
    assert main(["evaluate", *words]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert json.loads((tmp_path / "report" / "figures.json").read_text()) == figures
    assert main(["evaluate", *words, "--limit", "50"]) == 2
    assert "another run of `unbox evaluate`: limit was none, is 50" in capsys.readouterr().err
    assert main(["evaluate", *words[:-3], "--limit", "50"]) == 0  # keeps nothing, and so refuses nothing


def test_a_plan_in_toml(store, tmp_path):
    (tmp_path / "plan.toml").write_text(
        "tokens = 500\nbatch_size = 100\n[[sae]]\n"
        'block = "mid.0"\nk = [1, 2]\nlatents = 8\nvariant = "batchtopk"\n'
    )
    words = ["--store", str(store), "--out", str(tmp_path / "saes"), "--plan", str(tmp_path / "plan.toml")]
    assert main(["train", *words]) == 0
    assert list(load_saes(tmp_path / "saes")) == ["mid.0_k1_n8_batchtopk", "mid.0_k2_n8_batchtopk"]


def test_export_and_import(trained, tmp_path):
    assert (
        main(["sae", "export", str(trained), "--out", str(tmp_path / "out"), "--format", "sdxl-unbox"]) == 0
    )
    assert main(["sae", "import", str(tmp_path / "out"), "--out", str(tmp_path / "back")]) == 0
    x = torch.randn(20, 8)
    ours, back = SAE.load(trained / "mid.0"), SAE.load(tmp_path / "back" / "mid.0")
    assert torch.equal(ours.encode(x).values, back.encode(x).values)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--store", "nowhere", "--out", "x"], "nowhere"),
        (["evaluate", "--saes", "nowhere", "--store", "{store}"], "not a folder"),
        (["train", "--store", "{store}", "--out", "x", "--blocks", "mid.9"], "rows of mid.0, up.1.0"),
        (["train", "--store", "{store}", "--out", "x", "--latents", "4", "--k", "9"], "k is at most"),
        (["evaluate", "--saes", "{saes}", "--store", "{store}", "--images", "2"], "--model"),
        (["sae", "info", "{store}"], "no SAE"),
        (["sae", "import", "{store}", "--out", "x"], "known layout"),
    ],
)
def test_mistakes_are_one_line(words, message, store, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([word.format(store=store, saes=trained) for word in words]) == 2
    errors = capsys.readouterr().err.strip()
    assert message in errors
    assert "\n" not in errors
