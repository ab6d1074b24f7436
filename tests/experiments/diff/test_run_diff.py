"""A comparison from prompts to a report: planted systems with a known difference, and a tiny SDXL."""

import csv
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from activation_store import StoreError
from tests.activation_store.test_batches import as_set
from tests.experiments.diff.planted_systems import channel_sae, codes_of, store_of, system_rows
from unbox.errors import UnboxError
from unbox.experiments.diff.block_figures import explained, feature_rows, measured_changes, summary_of
from unbox.experiments.diff.compared_stores import DrawnSystems, GivenStores
from unbox.experiments.diff.diff_settings import DiffSettings, read_systems
from unbox.experiments.diff.joint_rows import divided, joint_rows, rows_of
from unbox.experiments.diff.run_diff import DiffRun, run_diff

SETTINGS = DiffSettings(blocks=("mid.0",), latents=12, k=4, flips=200, splits=10)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Three systems of the same 40 scenes: in `less` channel 2 is unlearned, `one` has one step."""
    home = tmp_path_factory.mktemp("planted")
    rows = {
        "base": system_rows(40, 2, {}, own=1),
        "less": system_rows(40, 2, {2: -0.4}, own=2),
        "one": system_rows(40, 1, {}, own=3),
    }
    return rows, {name: store_of(home / name, each) for name, each in rows.items()}


def test_the_planted_difference_is_found_first_and_by_nothing_but_it(planted):
    rows, stores = planted
    found = measured_changes(channel_sae(), rows_of(stores, "mid.0", range(40)), SETTINGS)
    less, one = found.changes["less"], found.changes["one"]
    assert less.order[0] == 2
    assert less.high[2] < 0
    assert less.p_family[2] < 0.01
    truth = codes_of(rows["less"]).mean((1, 2, 3, 4)) - codes_of(rows["base"]).mean((1, 2, 3, 4))
    assert np.allclose(less.change, truth.mean(0), atol=1e-6)
    assert (one.p_family > 0.05).all()
    table = feature_rows("mid.0", "base", found)
    assert table[0]["feature"] == "mid.0/2"
    assert table[0]["active_other"] < table[0]["active_first"]
    counts = summary_of(found)
    assert counts["less"]["lost_family"] == 1
    assert counts["random split"]["listed"] < 1
    steps, by_step = found.by_step["less"]
    assert steps == (0, 1)
    assert np.allclose(by_step, codes_of(rows["less"]).mean((0, 2, 3, 4)), atol=1e-6)


def test_what_is_explained_is_by_system_and_step(planted):
    rows, stores = planted
    found = explained(channel_sae(), rows_of(stores, "mid.0", range(40)))
    for name, each in rows.items():
        left = np.square(each - codes_of(each)).sum()
        assert found[name]["fvu"] == pytest.approx(
            left / np.square(each - each.mean((0, 1, 2, 3, 4))).sum(), 1e-4
        )
        assert list(found[name]["by_step"]) == [str(step) for step in range(each.shape[1])]


def test_systems_weigh_the_same_whatever_their_steps(planted):
    rows, stores = planted
    joint = joint_rows(rows_of(stores, "mid.0", range(10)))
    parts = [rows[name][:10].reshape(-1, 12) for name in ("base", "less", "one", "one")]
    assert len(joint) == sum(map(len, parts))
    read = np.concatenate(list(joint.batches(500)))
    assert np.array_equal(as_set(read), as_set(np.concatenate(parts)))
    assert "model" not in joint.provenance  # SAEs of several models are of none alone
    counted = Counter(map(bytes, joint.sample(len(joint))))
    assert sum(counted.values()) == len(joint)


def test_images_are_divided_by_their_numbers_and_too_few_are_refused():
    learn, held = divided(range(200), 0.25)
    assert sorted(learn + held) == list(range(200))
    assert 30 < len(held) < 70
    assert divided(range(300), 0.25)[1][: len(held)] == held
    with pytest.raises(UnboxError, match=r"of 4 images \d are held out"):
        divided(range(4), 0.25)


def small(tiny, **changed):
    settings = DiffSettings(
        blocks=("mid.0",), latents=32, k=4, tokens=3000, rows=64, flips=50, splits=4, held_out=0.4,
        guidance=0.0, height=32, width=32, batch_size=4, alone=True, shown=3, **changed,
    )  # fmt: skip
    systems = read_systems(("tiny,steps=1", "tiny,steps=2", "tiny,steps=1,name=same"))
    source = DrawnSystems(systems, lambda _: tiny, [f"a red cat {i}" for i in range(12)])
    return DiffRun(source, settings, progress=False)


def drawn(run, **changed):
    """The run with other systems, prompts or ways to load them."""
    return replace(run, source=replace(run.source, **changed))


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("diff") / "run"
    return small(tiny), out, run_diff(small(tiny), out)


def test_a_run_ends_in_a_report_and_its_figures(whole):
    _, out, figures = whole
    assert json.loads((out / "figures.json").read_text()) == figures
    assert figures["systems"]["tiny-2step"]["steps"] == 2
    block = figures["blocks"]["mid.0"]
    assert set(block["explained"]) == {"joint", "tiny-1step", "tiny-2step", "same"}
    same, twice = block["explained"]["joint"]["same"], block["explained"]["joint"]["tiny-1step"]
    assert same == twice
    assert all(each["change"] == 0 and each["p_family"] == 1 for each in block["features"]["same"])
    # The first of two steps begins from the same noise as one step alone, at the same timestep.
    assert block["features"]["tiny-2step"][0]["steps_other"][0] == pytest.approx(
        block["features"]["tiny-2step"][0]["steps_first"][0], rel=0.05, abs=1e-3
    )
    with (out / "blocks" / "mid.0-features.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["system"] for row in rows].count("same") == 32
    page = (out / "report.html").read_text()
    assert page.count("data:image/webp") > 24
    assert "{{" not in page


def test_the_same_line_again_makes_nothing_anew(whole, tiny):
    run, out, figures = whole
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")} | {
        path: path.stat().st_mtime_ns for path in (out / "blocks").iterdir()
    }
    assert run_diff(run, out) == figures
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_another_run_is_refused_by_name_before_anything_is_drawn(whole, tiny):
    run, out, _ = whole

    def never(system):
        raise AssertionError(system)

    source = replace(run.source, load=never)
    first, second, third = source.systems
    more = replace(second, steps=3, name="tiny-2step")
    others = {
        "seed was 0, is 1": {"settings": replace(run.settings, seed=1)},
        "latents was 32, is 33": {"settings": replace(run.settings, latents=33)},
        "prompts was 12 prompts": {"source": replace(source, prompts=source.prompts[:11])},
        "models was": {"source": replace(source, systems=(first, second))},
        "system tiny-2step steps was 2, is 3": {"source": replace(source, systems=(first, more, third))},
        "saes was none": {"saes": {"mid.0": channel_sae(width=128)}},
    }
    for told, change in others.items():
        with pytest.raises(UnboxError, match=told):
            run_diff(replace(run, **{"source": source, **change}), out)


def test_given_saes_are_compared_by_and_none_is_trained(tiny, tmp_path):
    run = small(tiny)
    torch.manual_seed(0)
    sae = replace(channel_sae(width=128), block="mid.0")
    settings = replace(run.settings, alone=False)
    run = replace(drawn(run, systems=run.source.systems[:2]), settings=settings, saes={"mid.0": sae})
    figures = run_diff(run, tmp_path / "given")
    assert list(figures["blocks"]["mid.0"]["explained"]) == ["given"]
    assert not (tmp_path / "given" / "saes").exists()
    with pytest.raises(UnboxError, match=r"there is no SAE of up\.0\.1; there are SAEs of mid\.0"):
        run_diff(replace(run, settings=replace(run.settings, blocks=("up.0.1",))), tmp_path / "none")


def test_crosscoders_take_as_many_steps_of_each(tiny, tmp_path):
    run = small(tiny, crosscoders=True)
    run = replace(drawn(run, systems=run.source.systems[:2]), settings=replace(run.settings, alone=False))
    with pytest.raises(
        UnboxError, match="as many steps of each system; there are of tiny-1step 1, tiny-2step 2"
    ):
        run_diff(run, tmp_path / "refused")
    run = replace(run, settings=replace(run.settings, keep_steps=(0,)))
    figures = run_diff(run, tmp_path / "run")
    found = figures["blocks"]["mid.0"]["crosscoders"]["tiny-2step"]
    assert sum(found["kinds"].values()) == 32
    assert set(found["fvu"]) == {"first", "other"}
    assert "Crosscoder of tiny-1step and tiny-2step" in (tmp_path / "run" / "report.html").read_text()
    assert run_diff(run, tmp_path / "run") == figures


def test_a_mistyped_model_can_be_typed_again(tiny, tmp_path):
    run = small(tiny)
    run = replace(run, settings=replace(run.settings, alone=False, tokens=500))

    def second_fails(system):
        if system.steps == 2:
            raise UnboxError("there is nothing at tiny")
        return tiny

    with pytest.raises(UnboxError, match="nothing at"):
        run_diff(drawn(run, load=second_fails), tmp_path / "run")
    systems = read_systems(("tiny,steps=1", "tiny,steps=2,name=other"))
    assert run_diff(drawn(run, systems=systems), tmp_path / "run")["first"] == "tiny-1step"


def test_stores_that_are_there_are_compared_alike(planted, tmp_path):
    """What several GPUs collected: the planted difference is found, other images are refused."""
    _, stores = planted
    settings = replace(SETTINGS, held_out=0.5, tokens=2000, rows=64)
    run = DiffRun(GivenStores(stores), settings, {"mid.0": channel_sae()}, progress=False)
    figures = run_diff(run, tmp_path / "run")
    assert figures["first"] == "base"
    assert figures["blocks"]["mid.0"]["features"]["less"][0]["index"] == 2
    assert run_diff(run, tmp_path / "run") == figures
    two = replace(run, source=GivenStores({name: stores[name] for name in ("base", "one")}))
    with pytest.raises(UnboxError, match=r"stores less was .*, is none"):
        run_diff(two, tmp_path / "run")
    crossed = replace(run, settings=replace(settings, crosscoders=True))
    with pytest.raises(UnboxError, match="there are of base 2, less 2, one 1: choose some of all"):
        run_diff(crossed, tmp_path / "crossed")
    other = store_of(tmp_path / "other", system_rows(40, 2, {}, own=1), first_seed=7)
    mixed = replace(run, source=GivenStores({"base": stores["base"], "other": other}))
    with pytest.raises(StoreError, match="differ in image 0: another prompt or seed"):
        run_diff(mixed, tmp_path / "mixed")


def test_steps_are_chosen_of_stores_too(planted):
    _, stores = planted
    found = rows_of(stores, "mid.0", range(5), (0,))
    assert {name: rows.steps for name, rows in found.items()} == dict.fromkeys(stores, (0,))
