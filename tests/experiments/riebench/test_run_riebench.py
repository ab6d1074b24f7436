"""RIEBench's protocol, from a file in its format to its table, on a tiny SDXL."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.edits.dictionaries import random_sae
from unbox.errors import UnboxError
from unbox.experiments import artifact_columns
from unbox.experiments.clip_metric import ClipMetric
from unbox.experiments.riebench import run_riebench
from unbox.experiments.riebench.examples import KINDS, EditExample, read_examples
from unbox.experiments.riebench.masks import on_grid
from unbox.experiments.riebench.methods import METHOD_RULE
from unbox.experiments.riebench.metric import riebench_metric
from unbox.experiments.riebench.report import differences, markdown, summary
from unbox.experiments.riebench.riebench_settings import RiebenchSettings
from unbox.experiments.riebench.run_riebench import bench_riebench, recorded_runs
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
    assert "Failed: 1 of 2 examples" in markdown(rows, settings)


def test_results_of_other_rules_are_not_found(data, tmp_path, tiny, saes, monkeypatch):
    """Versions before carried features otherwise, and named results by the settings alone."""
    failed = [{"id": "1", "kind": KINDS[1], "method": "", "error": "not run"}]
    monkeypatch.setattr(run_riebench, "_made", lambda *given: failed)
    (example, *_) = examples = read_examples(data)
    bench_riebench(tiny, saes, examples, tmp_path / "out", SETTINGS, progress=False)
    context = json.loads((tmp_path / "out/manifest.json").read_text())
    assert context.pop("examples") == len(examples)
    assert context["settings"].pop("rules") == METHOD_RULE
    before = key_of([context, [asdict(example), []]])
    context["settings"]["rules"] = METHOD_RULE
    now = key_of([context, [asdict(example), []]])
    assert not (tmp_path / f"out/kept/{before}.json").is_file()
    assert (tmp_path / f"out/kept/{now}.json").is_file()


def test_masks_are_placed_as_the_protocol_says(tmp_path, tiny, monkeypatch):
    """The edited image's mask for both when adding; a deletion reads the original outside of its mask."""
    shown = {"original": np.eye(64, dtype=np.uint8), "editing": np.eye(64, dtype=np.uint8)[::-1]}
    for side, mask in shown.items():
        Image.fromarray(mask * 255).save(tmp_path / f"1_{side}.png")
    first, second = (on_grid(mask, 8, 8) for mask in shown.values())
    expected = {
        "change object": (second, first),
        "add object": (second, second),
        "delete object": (~first, first),
        "change style": (np.ones((8, 8), bool),) * 2,
    }
    settings = replace(SETTINGS, masks=str(tmp_path))
    for kind, (read, edited) in expected.items():
        example = EditExample("1", kind, "a cat", "a dog", (), ())
        runs, original, target = recorded_runs(tiny, ("mid.0",), example, settings, kind == "add object")
        assert np.array_equal(runs.read["mid.0"], read), kind
        assert np.array_equal(runs.edited["mid.0"], edited), kind
        assert runs.spread == (kind == "delete object")
        assert np.array_equal(runs.donor["mid.0"], runs.original["mid.0"]) == (kind == "delete object")
        assert (runs.donor_neurons is not None) == (kind == "add object")
        assert not np.array_equal(np.asarray(original), np.asarray(target))


def test_every_picture_of_an_example_is_measured_in_one_call():
    calls = []

    def metric(pairs):
        calls.append(pairs)
        return [{"level": float(np.mean(np.asarray(p.after))) - np.mean(np.asarray(p.before))} for p in pairs]

    original, target, *edited = (
        Image.fromarray(np.full((4, 4, 3), v, np.uint8)) for v in (0, 10, 20, 30, 40)
    )
    found = riebench_metric([metric], original, target, edited, "a dog")
    assert found == [{"level_to_original": v, "level_to_edited": v - 10.0} for v in (20.0, 30.0, 40.0)]
    assert len(calls) == 1


def test_the_report_says_what_is_not_as_published():
    told = "\n".join(differences(RiebenchSettings()))
    assert "cross-attention" in told
    assert "structure" in told
    published = RiebenchSettings(masks="masks", metrics=("lpips", "clip"), clip_model="x")
    assert len(differences(published)) == 2
    assert "steps 1" in "\n".join(differences(replace(published, steps=1)))


def test_the_example_file_is_of_the_published_format():
    """Every kind, bracketed words, and the fields that segmenters read."""
    path = Path(__file__).parents[3] / "examples" / "riebench_shapes.json"
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


def test_artifacts_are_told_among_the_original_images_of_all_examples(tmp_path, tiny, monkeypatch):
    """Thirty originals of one hue; of one example the edited picture is of another."""
    draw = np.random.default_rng(0)
    rows = [{"id": f"{i}/a", "method": "sae 4 x 1", "kind": "", "rmse": 0.1} for i in range(30)]
    for i, row in enumerate(rows):
        folder = run_riebench.image_folder(tmp_path, row["id"])
        folder.mkdir(parents=True)
        level = draw.integers(200, 230, 3)
        for name, shown in (("original", level), ("sae_4_x_1", level + 1 if i else (0, 0, 250))):
            Image.fromarray(np.full((4, 4, 3), shown, np.uint8)).save(folder / f"{name}.png")

    def colours(pictures):
        means = torch.tensor(np.array([np.asarray(p, float).mean((0, 1)) for p in pictures]))
        return torch.nn.functional.normalize(means, dim=-1)

    clip = ClipMetric(colours, lambda texts: torch.zeros(len(texts), 3))
    monkeypatch.setattr(artifact_columns, "load_clip", lambda name, device: clip)
    failed = {"id": "x", "method": "", "kind": "", "error": "no mask"}
    settings = replace(SETTINGS, metrics=("pixels", "density"), clip_model="clip")
    run_riebench.add_artifact_figures([*rows, failed], tmp_path, settings, tiny)
    assert rows[0]["artifact"] == 1
    assert sum(row["artifact"] for row in rows[1:]) <= 2
    assert set(rows[0]) == {"id", "method", "kind", "rmse", "strangeness", "artifact"}
    assert set(failed) == {"id", "method", "kind", "error"}
    table = markdown([*rows, failed], settings)
    assert "| method | rmse | strangeness | artifact |" in table
    assert "distances are pixels; there" in table
