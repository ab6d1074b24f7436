"""An experiment that chooses steps, blocks and strength by itself, on a tiny SDXL."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from unbox.edits import load_edits
from unbox.errors import UnboxError
from unbox.experiments import auto_choice
from unbox.experiments.auto_choice import TrialPictures, file_name
from unbox.experiments.experiment_plan import make_plan
from unbox.experiments.sweep import run_experiment
from unbox.result_cache import ResultCache

FAR = [100.0] + [0.0] * 127
PLAN = {
    "model": "tiny", "prompts": ["a cat"], "seeds": [1], "steps": 2, "guidance": 0.0, "height": 32,
    "width": 32, "metrics": ["pixels"], "batch_size": 4,
    "edit": [
        {
            "name": "push",
            "edits": [
                {"block": "up.0.1", "direction": FAR, "op": "add", "value": 1.0},
                {"block": "mid.0", "direction": [1e-4] + [0.0] * 127, "op": "add", "value": 1.0},
            ],
            "steps": "auto", "blocks": "auto", "strength": "auto", "reach": 0.02,
        }
    ],
}  # fmt: skip


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(auto_choice, "PICTURES", 2)


def rmse(before, after):
    a, b = (np.asarray(x, np.float32) / 255 for x in (before, after))
    return float(np.sqrt(((a - b) ** 2).mean()))


def test_everything_is_chosen_on_other_pictures_and_a_second_run_only_reads(tmp_path, tiny, few):
    plan = make_plan(PLAN)
    rows = run_experiment(plan, tmp_path, tiny, progress=False)
    edits = load_edits(tmp_path / "edits" / file_name("push"))
    assert edits.blocks == ("up.0.1",)  # the other does nothing
    assert edits[0].value > 0
    assert edits[0].steps is not None
    table = list(csv.DictReader((tmp_path / "chosen.csv").read_text().splitlines()))
    tried = {float(row["at"]): float(row["effect"]) for row in table if row["curve"] == "strength"}
    assert tried[edits[0].value] >= 0.02
    assert not [s for s, effect in tried.items() if effect >= 0.02 and s < edits[0].value]
    # The effect of the chosen edit, from pictures drawn here: seeds 0 and 2, for 1 is reported.
    before, after = (
        tiny.generate(
            ["a cat"] * 2, seeds=[0, 2], edits=made, steps=2, guidance=0.0, height=32, width=32, batch_size=4
        )
        for made in (None, [edits] * 2)
    )
    mean = np.mean([rmse(b, a) for b, a in zip(before, after, strict=True)])
    assert tried[edits[0].value] == pytest.approx(mean, rel=1e-3)
    assert [row["seed"] for row in rows] == [1]
    with Image.open(tmp_path / rows[0]["image"]) as image:
        assert json.loads(image.text["unbox"])["edits"] == edits.to_json()["edits"]
    page = (tmp_path / "report.html").read_text()
    assert "Chosen beforehand" in page
    assert page.count("<svg") == 3

    class Reading:
        def generate(self, *given, **options):
            raise AssertionError("drawn again")

        def __getattr__(self, name):
            return getattr(tiny, name)

    again = run_experiment(plan, tmp_path, Reading(), progress=False)
    assert again == rows


def test_trial_pictures_are_none_that_is_reported(tmp_path, tiny):
    plan = make_plan({**PLAN, "prompts": ["a", "b", "c"], "seeds": [0, 2]})
    pictures = TrialPictures(plan, tiny, ResultCache(tmp_path, {}))
    drawn = {(p.text, s) for p, s in zip(pictures.prompts, pictures.seeds, strict=True)}
    assert len(drawn) == auto_choice.PICTURES
    assert not drawn & {(p.text, s) for p in plan.prompts for s in plan.seeds}
    others = make_plan({**PLAN, "auto_prompts": ["x", "y"]})
    assert {p.text for p in TrialPictures(others, tiny, ResultCache(tmp_path, {})).prompts} == {"x", "y"}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"block": "mid.0", "op": "scale", "value": 0.0, "blocks": "auto"}, "the edits are of mid.0 alone"),
        ({"block": "mid.0", "op": "scale", "value": 0, "strength": "auto"}, "reach = None: should be given"),
        ({"block": "mid.0", "op": "scale", "value": 0.0, "reach": 0.5}, 'is for strength = "auto"'),
        ({"block": "mid.0", "direction": [1.0], "op": "set", "value": 1.0, "strength": "auto", "reach": 1.0},
         "has no strength"),
        ({"block": "mid.0", "op": "scale", "value": 0.0, "strength": "automatic"}, "strength = 'automatic'"),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen_is_refused(edit, message):
    with pytest.raises(UnboxError, match=message):
        make_plan({**PLAN, "edit": [edit]})


def test_one_step_is_no_choice(tmp_path, tiny):
    edit = {"block": "mid.0", "op": "scale", "value": 0.0, "steps": "auto"}
    with pytest.raises(UnboxError, match="these runs have one"):
        run_experiment(make_plan({**PLAN, "steps": 1, "edit": [edit]}), tmp_path, tiny, progress=False)
