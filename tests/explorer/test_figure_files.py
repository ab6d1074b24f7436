"""Files of figures that the explorer is given: read, or the key that is none of theirs is named."""

import json

import pytest

from unbox.errors import UnboxError
from unbox.explorer.figure_files import read_bench_results, read_figures

GROUP = {"step": 0, "branch": None, "explained_variance": 0.5, "l0": 3.0, "rows": 7}
FIGURES = {
    "mid.0": {"fvu": 0.1, "fvu_interval": [0.1, 0.2], "rows": 7, "rows_from": "held out", "groups": [GROUP]}
}
JUDGED = {"success": 0.75, "success_low": 0.5, "success_high": 0.9}
BENCH = {
    "ownership": [{"kind": "colour", "block": "mid.0", **JUDGED}],
    "meaning": [{"block": "mid.0", "method": "sae", "auroc": 1}],
    "other": 7,
}


def test_what_is_written_is_read(tmp_path):
    (tmp_path / "figures.json").write_text(json.dumps(FIGURES))
    (tmp_path / "results.json").write_text(json.dumps(BENCH))
    assert read_figures(tmp_path / "figures.json") == FIGURES
    assert read_bench_results(tmp_path) == read_bench_results(tmp_path / "results.json") == BENCH


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], r"f\.json is not an object of figures but list '\[1\]'"),
        ({"mid.0": 3}, r"f\.json: mid\.0 is not an object of figures but int"),
        ({"mid.0": {"fvu": {"a": 1}}}, r"f\.json: mid\.0 fvu is no figure but dict"),
        ({"mid.0": {"fvu_interval": [1, 2, 3]}}, "fvu_interval is no figure"),
        ({"mid.0": {"fvu": True}}, "fvu is no figure"),
        ({"mid.0": {"groups": 7}}, "groups is not a list but int"),
        ({"mid.0": {"groups": [GROUP, {"l0": [1]}]}}, r"mid\.0 groups\[1\] l0 is no figure"),
    ],
)
def test_other_figures_are_named(tmp_path, value, message):
    (tmp_path / "f.json").write_text(json.dumps(value))
    with pytest.raises(UnboxError, match=message):
        read_figures(tmp_path / "f.json")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "is not an object of figures"),
        ({"ownership": {}}, "ownership is not a list but dict"),
        ({"ownership": [7]}, r"ownership\[0\] is not an object"),
        ({"ownership": [{"kind": "colour", "block": "mid.0"}]}, r"ownership\[0\] has no success"),
        (
            {"meaning": [{"block": "mid.0", "method": "sae", "auroc": "x"}]},
            r"meaning\[0\] has no auroc, or another",
        ),
    ],
)
def test_other_results_are_named(tmp_path, value, message):
    (tmp_path / "r.json").write_text(json.dumps(value))
    with pytest.raises(UnboxError, match=message):
        read_bench_results(tmp_path / "r.json")
