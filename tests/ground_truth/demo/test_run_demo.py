"""The whole demo on a tiny random SDXL: every stage really runs, and what is done is not done again."""

import re
from dataclasses import replace

import pytest

from tests.models.tiny import tiny_pipeline
from unbox.atlas import Atlas
from unbox.cli.main import main
from unbox.ground_truth.demo.demo_plan import DemoPlan
from unbox.ground_truth.demo.run_demo import run
from unbox.ground_truth.effects import readings
from unbox.models import load
from unbox.shapes import FACTORS, prompts
from unbox.shapes.detector import Detector


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(tiny_pipeline(tmp_path_factory.mktemp("tiny"), timestep_spacing="trailing"))


@pytest.fixture(scope="module")
def plan(model):
    """A plan of seconds. Its target is a value that the random pictures do not show."""
    images = model.generate([p.text for p in prompts(6, 3, "heldout")], seed=1, steps=1, guidance=0)
    shown = {read["colour"] for read in readings(Detector.load(), images)}
    absent = next(value for value in FACTORS["colour"] if value not in shown)
    return DemoPlan(
        guidance=0, blocks=("up.0.1", "mid.0"), captions=24, held_out_captions=20,
        latents=16, k=2, tokens=4096,
        sizes=(2,), strengths=(4.0,), trial_cases=2, test_cases=3, trial_pool=4, test_pool=6,
        values=(("colour", absent),),
    )  # fmt: skip


@pytest.mark.slow
def test_the_demo_runs_and_goes_on(model, plan, tmp_path):
    said: list[str] = []
    finished = run(model, plan, tmp_path, said.append)
    assert finished.report.stat().st_size > 20_000
    assert [row["block"] for row in finished.findings.blocks] == ["mid.0", "up.0.1"]
    assert len(finished.findings.ablations) == 11
    (edit,) = finished.findings.edits
    assert edit["edited"]["n"] == edit["control"]["n"] <= 3
    assert "report.html" in finished.summary()
    saved = list((tmp_path / "edits").glob("*.json"))
    assert len(saved) == 1
    atlas = re.search(r"unbox app .* --atlas (\S+)", finished.summary())
    assert atlas is not None
    assert len(Atlas.open(atlas[1])) == 2 * 16

    page = finished.report.read_text()
    said.clear()
    again = run(model, plan, tmp_path, said.append)
    assert all("done before" in line for line in said if line.startswith("["))
    assert again.report.read_text() == page

    said.clear()
    run(model, replace(plan, strengths=(2.0,)), tmp_path, said.append)
    ran = [line for line in said if line.startswith("[") and "done before" not in line]
    assert len(ran) == 2  # only the edit and its control
    assert "Turning on" in ran[0]

    colour = plan.values[0][1]
    saes = next((tmp_path / "stages").glob("train-*/saes"))
    asked = ["generate", "--model", model.source, "--prompt", "a dog", "--seed", "1", "--steps", "1"]
    asked += [
        "--guidance",
        "0",
        "--saes",
        str(saes),
        "--edits",
        str(tmp_path / "edits" / f"colour-{colour}.json"),
    ]
    assert main([*asked, "--out", str(tmp_path / "edited.png")]) == 0
    assert (tmp_path / "edited.png").exists()


def test_a_model_that_is_not_there_is_a_mistake(tmp_path, capsys):
    assert main(["demo", "--model", str(tmp_path / "nothing"), "--out", str(tmp_path / "demo")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "nothing" in error
    assert not (tmp_path / "demo").exists()
