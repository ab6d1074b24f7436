"""The tables of `bench shapes`: what is counted in them."""

import csv

import pytest

from unbox.ground_truth.bench.report import markdown, write_tables


def brought(value, method, success, collateral, artifacts=0.1):
    figures = {"success": success, "collateral": collateral, "artifacts": artifacts, "area": 0.5}
    ends = {f"{name}_{end}": figures[name] for name in figures for end in ("low", "high")}
    curve = [{**figures, "strength": 1.0}, {**figures, "strength": 4.0, "artifacts": 2 * artifacts}]
    edit = {"curve": curve, "blocks": ["mid.0"], "spread": "map", "size": 1, "strength": 1.0}
    return {"factor": "colour", "value": value, "method": method, **figures, **ends, **edit}


@pytest.fixture
def results():
    told = [
        {
            "factor": "colour",
            "value": v,
            "block": "mid.0",
            "method": m,
            "auroc": a,
            "chosen_at": a,
            "feature": 1,
        }
        for m, found in {"sae": (0.99, 0.90), "neurons": (0.95, 0.97)}.items()
        for v, a in zip(("red", "blue"), found, strict=True)
    ]
    causation = [
        brought("red", "sae", 0.9, 0.05), brought("blue", "sae", 0.9, 0.2),
        brought("red", "random", 0.0, 0.0), brought("blue", "random", 0.1, 0.0),
        brought("red", "guard", 0.8, 0.1),
    ]  # fmt: skip
    row = {"success": 0.0, "collateral": 0.0}
    owned = [{"kind": "add object", "block": "mid.0", **row}]
    moved = [{"kind": "add object", "method": "sae", **row}]
    return {
        "meaning": told, "causation": causation, "removal": [], "reliable": {"colour=red": 1.0},
        "ownership": owned, "transport": moved,
    }  # fmt: skip


def test_means_are_of_the_values_that_a_method_was_measured_on(results):
    text = markdown(results)
    assert (
        "| sae | 0.90 [0.90, 0.90] | 0.12 [0.05, 0.20] | 0.10 [0.10, 0.10] | 0.50 [0.50, 0.50] | 1 of 2 |"
        in text
    )
    assert (
        "| guard | 0.80 [0.80, 0.80] | 0.10 [0.10, 0.10] | 0.10 [0.10, 0.10] | 0.50 [0.50, 0.50] | 1 of 1 |"
        in text
    )
    assert "| sae | 1 of 2 | 0.945 |" in text
    assert "| sae | 0.90 / 0.12 / 0.10 | 0.90 / 0.12 / 0.20 |" in text
    assert "| neurons | 2 of 2 | 0.960 |" in text


def test_what_was_tried_is_a_table_of_its_own(results, tmp_path):
    tried = [{"blocks": ["mid.0"], "strength": s, "success": s / 4, "collateral": 0.0} for s in (1.0, 4.0)]
    results["causation"][1]["trials"] = tried
    results["removal"] = [
        {**brought("red", method, 0.5, 0.0), "trials": tried[:1] if method == "sae" else []}
        for method in ("sae", "random")
    ]
    write_tables(results, tmp_path)
    with (tmp_path / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["part"], r["value"], r["method"], r["strength"], r["success"]) for r in rows] == [
        ("causation", "blue", "sae", "1.0", "0.25"),
        ("causation", "blue", "sae", "4.0", "1.0"),
        ("removal", "red", "sae", "1.0", "0.25"),
    ]
    assert "trials" not in (tmp_path / "causation.csv").read_text().splitlines()[0].split(",")


def test_results_of_versions_before_have_no_table_of_what_was_tried(results, tmp_path):
    write_tables(results, tmp_path)
    assert (tmp_path / "causation.csv").is_file()
    assert not (tmp_path / "trials.csv").exists()
