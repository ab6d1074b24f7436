"""The grid: every cell's line is one that the commands take, cells come in order, a result is written once,
figures are what they say, and the tables of the page are made of the results."""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import recipes_grid, recipes_table
from benchmarks.grid_workers import claimed, linked, processors, run_workers
from benchmarks.recipe_figures import (
    Asked,
    Pictures,
    figures,
    kernel_distance,
    real_renders,
)
from benchmarks.recipe_plain import plain_images, plain_round_trip
from benchmarks.recipe_taste import open_prompts, taste_figures, taste_images
from benchmarks.recipes_grid import Cell, Grid, cells_of
from unbox.cli.idle_options import refuse_idle
from unbox.cli.main import find, parse
from unbox.models import load
from unbox.shapes import Scene
from unbox.shapes.detector import HEADS, Detector, accuracy
from unbox.shapes.factor_critics import load_critic
from unbox.shapes.factors import TABLE
from unbox.shapes.render_torch import draw
from unbox.shapes.scene_table import SceneTable
from unbox.text_files import read_toml_file

GRID = read_toml_file(recipes_grid.GRID)


@pytest.mark.parametrize("cell", cells_of(GRID, seeds=[2]), ids=lambda cell: cell.name)
def test_a_cells_line_is_taken(cell, tmp_path):
    words = cell.words(GRID["model"], GRID["common"], tmp_path)
    command, rest = find(words)
    form = parse(command, rest)
    refuse_idle(command.name, rest, form)
    assert form.settings.seed == 2
    assert form.images.cache == tmp_path / f"cache-{cell.data}"


def test_every_cell_is_in_a_table_and_every_row_of_a_table_is_a_cell():
    shown = [name for group in GRID["table"] for name in group["cells"]]
    assert sorted(shown) == sorted(row["name"] for row in GRID["cell"])


def test_cells_come_seed_by_seed_and_can_be_chosen():
    grid = {"seeds": [0, 1], "cell": [{"name": n, "line": "turbo"} for n in ("a", "b", "c")]}
    assert [c.file for c in cells_of(grid)] == [f"{n}-{s}.json" for s in (0, 1) for n in ("a", "b", "c")]
    assert [c.file for c in cells_of(grid, ["c", "a"], [1])] == ["c-1.json", "a-1.json"]
    with pytest.raises(SystemExit, match="no cell or seed d, 7"):
        cells_of(grid, ["d"], [7])


def test_a_cell_that_has_a_result_is_not_run_again_and_one_that_fails_stops_no_other(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(recipes_grid, "command", lambda words: begun.append(words[1]) or 2)
    (tmp_path / "a-0.json").write_text("{}")
    cells = [Cell(name, name, 0) for name in ("a", "b", "c")]
    grid = Grid({"model": "shapes-base", "common": ""}, tmp_path, tmp_path)
    grid.run(cells, dry_run=True)
    assert begun == []
    with pytest.raises(SystemExit, match="did not end: b, c"):
        grid.run(cells, dry_run=False)
    assert begun == ["b", "c"]


def test_a_cell_is_one_processs_at_a_time(tmp_path, monkeypatch):
    """Another process passes over a cell that is in work, also one that was killed and let go of it."""
    hold = (
        "import sys, time; from pathlib import Path; from benchmarks.grid_workers import claimed\n"
        "with claimed(Path(sys.argv[1]), 'a-0') as own: print(own, flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "True\n"
    with claimed(tmp_path, "a-0") as own:
        assert not own
    begun = []
    monkeypatch.setattr(recipes_grid, "command", lambda words: begun.append(words[1]) or 2)
    grid = Grid({"model": "shapes-base", "common": ""}, tmp_path, tmp_path)
    with pytest.raises(SystemExit, match="did not end: b"):
        grid.run([Cell(name, name, 0) for name in ("a", "b")], dry_run=False)
    assert begun == ["b"]
    other.kill()
    other.communicate()
    with claimed(tmp_path, "a-0") as own:
        assert own


def test_a_stop_ends_the_grid_and_not_only_the_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes_grid, "command", lambda words: 143)
    grid = Grid({"model": "shapes-base", "common": ""}, tmp_path, tmp_path)
    with pytest.raises(SystemExit) as stopped:
        grid.run([Cell(name, name, 0) for name in ("a", "b")], dry_run=False)
    assert stopped.value.code == 143


def test_processes_have_processors_of_their_own_and_end_in_time(tmp_path):
    import os

    here = os.sched_getaffinity(0)
    own = processors(len(here), 1)
    assert set.union(*own) == here
    assert sum(map(len, own)) == len(here)
    assert processors(len(here) + 1, 1) == [here] * (len(here) + 1)
    assert run_workers(["-c", "import sys; print(sys.argv[2])"], 2, 1, 1.0) == 0
    assert run_workers(["-c", "import time; time.sleep(600)"], 2, 1, 0.01) == 15  # ended by SIGTERM


def test_a_processs_cache_has_the_files_of_the_one_that_was_made(tmp_path):
    cache = tmp_path / "cache-shapes"
    (cache / "64x64").mkdir(parents=True)
    (cache / "64x64" / "000000.safetensors").write_text("x")
    (cache / "run.lock").write_text("")
    for _ in range(2):
        place = linked(cache, tmp_path / "worker-0")
    assert (place / "64x64" / "000000.safetensors").samefile(cache / "64x64" / "000000.safetensors")
    assert not (place / "run.lock").exists()


def test_the_pace_of_a_line_is_taken_on_its_own_settings():
    cell = cells_of(GRID, ["ladd-4"], [0])[0]
    assert recipes_grid.max_steps(recipes_grid.shorter(cell.line, 7)) == 7
    assert recipes_grid.shorter(cell.line, recipes_grid.max_steps(cell.line)) == cell.line
    assert "--limit 9 " in recipes_grid.limited(GRID["common"], 9)
    file = recipes_grid.RESULTS / "pace.json"
    if file.is_file():
        found = recipes_grid.Grid(GRID, recipes_grid.RESULTS, recipes_grid.RESULTS).paces()
        assert set(found) <= {row["name"] for row in GRID["cell"]}
        assert max(each["minutes"] for each in found.values()) <= 2 * 15  # of one core


def drawn(prompts):
    """The scenes that captions tell, as the world draws them."""
    scenes = [Scene.from_json(prompt.meta["scene"]) for prompt in prompts]
    pixels = draw(SceneTable.of(scenes), 128).pictures.permute(0, 2, 3, 1).numpy()
    return np.rint(pixels * 255).astype(np.uint8)


def test_figures_tell_right_pictures_from_others(monkeypatch):
    monkeypatch.setattr("benchmarks.recipe_figures.RENDERS", 16)
    asked = Asked.of(8)
    partial = np.repeat(drawn(asked.partial)[:, None], 4, 1)
    right = Pictures(drawn(asked.full), partial)
    wrong = Pictures(np.roll(right.full, 1, 0), np.stack([np.roll(partial[:, 0], i, 0) for i in range(4)], 1))
    same, other = (figures(each, right, asked, right) for each in (right, wrong))
    assert np.mean(same["right"]) > 0.99 > 0.6 > np.mean(other["right"])
    mentioned = [prompt.meta["mentioned"] for prompt in asked.full]
    scenes = [Scene.from_json(prompt.meta["scene"]) for prompt in asked.full]
    for each, found in ((right, same), (wrong, other)):
        read = accuracy(load_critic("patches"), list(each.full), scenes, mentioned)
        assert np.average(found["right"], weights=[len(m) for m in mentioned]) == pytest.approx(
            read["all"], abs=1e-3
        )
    assert max(same["distance"]) == 0
    assert np.mean(other["distance"]) == pytest.approx(1, abs=1e-3)  # the unit
    assert same["diversity"] == [0] * len(asked.partial)
    assert min(other["diversity"]) >= 0
    assert set(same["wins"]) == {0.5}
    assert np.mean(other["wins"]) < 0.1
    assert np.mean(same["reward"]) > np.mean(other["reward"]) + 1
    light = right.full.mean((1, 2, 3)) / 255
    assert same["darkest"] <= light.min() + 1e-9
    assert same["brightest"] >= light.max() - 1e-9
    noise = np.random.default_rng(0).integers(0, 256, right.full.shape, np.uint8)
    assert figures(Pictures(noise, partial), right, asked)["to_real"] > 10 * abs(same["to_real"])


def test_the_kernel_distance_is_that_of_its_definition_and_zero_on_average():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(0.4, 1.2, size=(4, 3))

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    def of(a, b):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if a is not b or i != j]
        return np.mean([k(a[i], b[j]) for i, j in pairs])

    assert kernel_distance(x, y) == pytest.approx(of(x, x) + of(y, y) - 2 * of(x, y))
    same = [kernel_distance(*rng.normal(size=(2, 30, 3))) for _ in range(300)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(300)


def test_plain_pictures_are_a_fifth_and_are_what_their_captions_say(tmp_path):
    from PIL import Image

    plain_images(tmp_path, 60, 32)
    means = {"black": [], "white": []}
    for file in sorted(tmp_path.glob("*.txt")):
        said = file.read_text()
        if said.startswith("a completely"):
            means[said.split()[2]].append(np.asarray(Image.open(file.with_suffix(".png"))).mean())
    assert set(means["black"]) == {0}
    assert set(means["white"]) == {255}
    assert 4 <= sum(map(len, means.values())) <= 24


def test_pairs_of_a_taste_differ_in_the_light_that_their_caption_leaves_open(tmp_path):
    from PIL import Image

    taste_images(tmp_path / "bright", tmp_path / "others", 12, 64)
    pictures = {}
    for folder in ("bright", "others"):
        files = sorted((tmp_path / folder).glob("*.png"))
        assert len(files) == 12
        pictures[folder] = [Image.open(file) for file in files]
    said = [file.read_text() for file in sorted((tmp_path / "bright").glob("*.txt"))]
    assert said == [file.read_text() for file in sorted((tmp_path / "others").glob("*.txt"))]
    words = [word for wordings in TABLE["light"].wordings.values() for word in wordings]
    assert not any(word in text for text in (*said, *(p.text for p in open_prompts(8))) for word in words)
    reader = Detector.load()
    for folder, every in pictures.items():
        read = reader.probabilities([image.resize((128, 128)) for image in every])["light"].argmax(1)
        bright = (read == HEADS["light"].index("bright")).mean()
        assert bright > 0.9 if folder == "bright" else bright < 0.1


def test_figures_of_a_taste_are_shares_of_pictures_and_of_seeds():
    at = HEADS["light"].index("bright")
    own, rival = np.full((2, 2, 4), 0.1), np.full((2, 2, 4), 0.1)
    own[0, :, at], own[1, 0, at] = 0.7, 0.05  # first caption: bright twice; second: once less than the rival
    own[1, :, at - 1] = 0.6
    assert taste_figures(own, rival) == {"preferred": [1.0, 0.0], "wins": [1.0, 0.25]}


def test_the_vaes_round_trip_of_plain_pictures_is_that_of_the_pipelines_own_processing():
    from PIL import Image

    model = load("shapes-turbo", dtype="float32")
    pipeline, found = model.pipeline, plain_round_trip(model)
    for name, colour in (("black", 0), ("white", 255)):
        given = pipeline.image_processor.preprocess(Image.new("RGB", (128, 128), (colour,) * 3))
        back = pipeline.vae.decode(pipeline.vae.encode(given).latent_dist.mode(), return_dict=False)[0]
        pixels = np.asarray(pipeline.image_processor.postprocess(back.detach())[0], float)
        assert found[name] == pytest.approx([pixels.mean() / 255], abs=2e-3)


def test_real_renders_are_other_scenes_than_those_asked_for():
    assert real_renders(3, 64).shape == (3, 64, 64, 3)


def test_a_table_has_intervals_over_captions_of_the_seeds_means_and_says_what_was_not_run(tmp_path):
    from activation_store.files import write_json

    group = {"title": "T", "columns": ["right", "to_real"], "base": ["base-4-0"], "cells": ["a", "b"]}
    told = {"line": "x", "steps": 4, "processor": "P", "threads": "1", "guidance": 0, "cpu_seconds": 60}
    seeds = [[1.0, 0.5, 0.75, 0.75], [1.0, 0.7, 0.75, 0.75]]
    for seed, values in enumerate(seeds):
        result = {
            **told,
            "cell": "a",
            "seed": seed,
            "figures": {"right": values, "to_real": 0.1 * (seed + 1)},
        }
        write_json(tmp_path / f"a-{seed}.json", result)
    base = {"cell": "base", "steps": 4, "guidance": 0, "figures": {"right": [1.0] * 4, "to_real": 0.0}}
    write_json(tmp_path / "base-4-0.json", base)
    pace = {"seconds_a_step": 1.0, "minutes": 3.5, "processor": "P", "threads": "2"}
    write_json(tmp_path / "pace.json", {"a": pace})
    made = recipes_table.table(group, tmp_path)
    assert "| the model itself, no guidance | 4 | - | - | 100.0 [100.0, 100.0] | 0.000 |" in made
    row = next(line for line in made.splitlines() if "`a`" in line)
    assert row.startswith("| `a` | 4 | 0, 1 | 3.5 | 77.5 [")
    assert row.endswith("]; 75.0 to 80.0 | 0.150; 0.100 to 0.200 |")
    assert "Not run: `b`." in made
    assert "seeds 0, 1" in recipes_table.tables({"table": [group], "cell": [{}, {}]}, tmp_path)
    (tmp_path / "a-1.json").unlink()
    assert "**one seed** (0)" in recipes_table.tables({"table": [group], "cell": [{}, {}]}, tmp_path)


def test_differences_of_two_results_are_paired_by_caption():
    one = {"figures": {"right": [0.9, 0.5, 0.7], "to_real": 0.1}, "taste": {"wins": [1.0, 1.0, 0.0]}}
    other = {"figures": {"right": [0.7, 0.3, 0.5], "to_real": 0.2}, "taste": {}}
    assert recipes_table.differences([one], [other]) == ["figures right: 0.200 [0.200, 0.200]"]
    again = {"figures": {"right": [0.7, 0.3, 0.5]}}
    (line,) = recipes_table.differences([one, again], [other])
    assert line == "figures right: 0.100 [0.100, 0.100]; by seed 0.200, 0.000"
    (line,) = recipes_table.differences([again, one], [one, again])  # seed by seed
    assert line.endswith("[0.000, 0.000]; by seed -0.200, 0.200")


def test_minutes_are_those_of_cores(tmp_path):
    card = {"cell": "a", "steps": 4, "threads": "1", "cpu_seconds": 30, "device": "NVIDIA H100"}
    core = {**card, "cpu_seconds": 240, "device": "cpu"}
    assert recipes_table.Row("a", [card, core]).told({})[-1] == "4.0"
    assert recipes_table.Row("a", [card]).told({})[-1] == "-"


def test_the_pages_tables_are_those_of_the_results():
    page = recipes_table.PAGE.read_text()
    assert recipes_table.page_with(page, recipes_table.tables(GRID, recipes_grid.RESULTS)) == page
