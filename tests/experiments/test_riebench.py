"""RIEBench's protocol, from a file in its format to its table, on a tiny SDXL."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.edits.dictionaries import random_sae
from unbox.errors import UnboxError
from unbox.experiments.riebench import run_riebench
from unbox.experiments.riebench.examples import KINDS, read_examples
from unbox.experiments.riebench.masks import placed, token_places
from unbox.experiments.riebench.report import markdown, summary
from unbox.experiments.riebench.riebench_settings import RiebenchSettings
from unbox.experiments.riebench.run_riebench import bench_riebench
from unbox.result_cache import key_of

DATA = [
    {
        "id": "1",
        "editing_type_id": "1",
        "original_prompt": "a [cat] on a boat",
        "editing_prompt": "a [dog] on a boat",
    },
    {
        "id": "2",
        "editing_type_id": "9",
        "original_prompt": "a tree",
        "editing_prompt": "[painting] of a tree",
    },
]
SETTINGS = RiebenchSettings(
    steps=1, counts=(4,), strengths=(1.0,), neurons=(8,), steering=(1.0,), metrics=("pixels",)
)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "riebench.json"
    path.write_text(json.dumps(DATA))
    return path


@pytest.fixture(scope="module")
def saes():
    return {
        block: random_sae(block, width=128, latents=64, k=4, seed=i)
        for i, block in enumerate(("mid.0", "up.0.1"))
    }


def test_every_method_is_judged_on_every_example_and_a_second_run_only_reads(data, tmp_path, tiny, saes):
    rows = bench_riebench(tiny, saes, read_examples(data), tmp_path / "out", SETTINGS, progress=False)
    methods = {"sae 4 x 1", "random 4 x 1", "neurons 8 x 1", "steering x 1"}
    assert {(r["id"], r["method"]) for r in rows} == {(i, m) for i in "12" for m in methods}
    assert all(np.isfinite([r["rmse_to_original"], r["rmse_to_edited"]]).all() for r in rows)
    assert (tmp_path / "out/images/1/sae_4_x_1.png").is_file()
    again = bench_riebench(tiny, saes, read_examples(data), tmp_path / "out", SETTINGS, progress=False)
    assert again == rows
    table = summary(rows)
    assert {(e["kind"], e["examples"]) for e in table} == {("all", 2), (KINDS[1], 1), (KINDS[9], 1)}


def test_an_example_that_cannot_run_is_told_not_dropped(data, tmp_path, tiny, saes):
    masks = tmp_path / "masks"
    masks.mkdir()
    for side in ("original", "editing"):
        Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(masks / f"1_{side}.png")
    settings = RiebenchSettings(**{**vars(SETTINGS), "masks": str(masks)})
    rows = bench_riebench(tiny, saes, read_examples(data), tmp_path / "out", settings, progress=False)
    failed = [row for row in rows if "error" in row]
    assert [row["id"] for row in failed] == ["2"]
    assert "2_original.png" in failed[0]["error"]
    assert len([row for row in rows if row["id"] == "1"]) == 4
    assert "Failed: 1 of 2 examples" in markdown(rows)


@pytest.mark.parametrize(("metric", "found"), [("pixels", True), ("structure", False)])
def test_results_of_a_redefined_metric_are_not_found(metric, found, data, tmp_path, tiny, saes, monkeypatch):
    """Versions before measured `structure` otherwise, and named results by the settings alone."""
    failed = [{"id": "1", "kind": KINDS[1], "method": "", "error": "not run"}]
    monkeypatch.setattr(run_riebench, "_made", lambda *given: failed)
    (example, *_) = examples = read_examples(data)
    settings = replace(SETTINGS, metrics=(metric,))
    bench_riebench(tiny, saes, examples, tmp_path / "out", settings, progress=False)
    context = json.loads((tmp_path / "out/manifest.json").read_text())
    assert context.pop("examples") == len(examples)
    assert context["settings"]["metrics"] == [metric]
    before = key_of([context, [asdict(example), []]])
    assert (tmp_path / f"out/kept/{before}.json").is_file() is found


def test_the_example_file_is_of_the_published_format():
    """Every kind, bracketed words, and the fields that segmenters read."""
    path = Path(__file__).parents[2] / "examples" / "riebench_shapes.json"
    examples = read_examples(path)
    assert sorted({e.kind for e in examples}) == sorted(KINDS.values())
    assert len({e.id for e in examples}) == len(examples)
    for e in examples:
        assert e.original_words
        assert e.edited_words
        assert all(word in e.original for word in e.original_words)
        assert all(word in e.edited for word in e.edited_words)
    fields = {
        "id", "editing_type_id", "original_prompt", "editing_prompt", "editing_instruction",
        "original_gsam_prompt", "editing_gsam_prompt",
    }  # fmt: skip
    assert all(set(row) == fields for row in json.loads(path.read_text()))


def test_words_are_found_among_the_tokens(tiny):
    tokenizer = tiny.pipeline.tokenizer
    text = "a red boat and a cat"
    ids = tokenizer(text).input_ids
    for word in ("red", "boat", "a cat"):
        found = [ids[i] for i in token_places(tokenizer, text, word)]
        assert found == tokenizer(word).input_ids[1:-1]
    assert token_places(tokenizer, text, "dog") == []


def test_masks_are_placed_as_the_protocol_says():
    assert placed("add object", 1, 2) == (2, 2)
    assert placed("delete object", 1, 2) == (1, 1)
    assert placed("change style", 1, 2) == (None, None)
    assert placed("change colour", 1, 2) == (1, 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "not a list"),
        ([{"id": 1}], "example 0 has no"),
        ([{**DATA[0], "editing_type_id": 12}], "type 12"),
        ([{**DATA[0], "editing_type_id": None}], "example 0 is of type None; types are 1 to 9"),
        ([{**DATA[0], "original_prompt": 7}], "example 0: original_prompt = 7: should be a text"),
        ([DATA[0], DATA[1], DATA[0]], "two examples have the id"),
        ([], "is not a list of examples: it is empty"),
    ],
)
def test_files_of_another_format_are_refused(tmp_path, rows, message):
    (tmp_path / "x.json").write_text(json.dumps(rows))
    with pytest.raises(UnboxError, match=message):
        read_examples(tmp_path / "x.json")
