"""Every method on a tiny SDXL: what is written is loaded and sampled as it says, stops lose nothing."""

import json

import numpy as np
import pytest
import torch

from tests.models.tiny import tiny_pipeline
from tests.recipes.systems.run_method import ARMS, run
from tests.training.data.pictures import folder_of
from unbox.cli.main import main
from unbox.errors import UnboxError
from unbox.models import load
from unbox.sae.safetensors_io import read_tensors
from unbox.stopping import Stopped, stopping


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model", timestep_spacing="trailing")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    place, captions = tmp_path_factory.mktemp("data"), {f"{i}": f"a red cat {i}" for i in range(3)}
    folder_of(place / "losers", captions, (80, 80))
    return folder_of(place / "winners", captions)


def drawn(loaded, **options):
    return np.asarray(loaded.generate("a cat", seed=1, height=64, width=64, **options), float)


def sampled(model, place):
    """The result, as the line that is printed loads it."""
    if place.name == "model":
        return load(place, device="cpu")
    return load(model, device="cpu", lora=place, system=str(place / "system.json"))


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_a_method_writes_what_is_sampled_and_goes_on_after_a_stop(model, data, tmp_path, arm):
    place = run(model, data, tmp_path / "whole", arm)
    loaded = sampled(model, place)
    told = json.loads((place / "system.json").read_text())
    assert loaded.system.name == "whole"
    picture = drawn(loaded, **({"steps": 2} if told["steps"] > 4 else {}))
    assert picture.std() > 0
    with stopping(), pytest.raises(Stopped):
        run(model, data, tmp_path / "parts", arm, stop=2)
    again = run(model, data, tmp_path / "parts", arm)
    for path in sorted(place.rglob("*.safetensors")):
        assert path.read_bytes() == (again / path.relative_to(place)).read_bytes(), path.name
    last = sorted((tmp_path / "whole" / "training").iterdir())[-1]
    moved = read_tensors(last / "student.safetensors")
    second = [tensor for name, tensor in moved.items() if "lora_B" in name] or list(moved.values())
    assert max(float(tensor.abs().max()) for tensor in second) > 0


def test_the_lora_is_sampled_by_the_row_beside_it(model, data, tmp_path):
    """Preference in the output's space, the quickest: a step, with a cache that other runs may share; another
    run in the folder is refused."""
    given = {"max_train_steps": 1, "batch_size": 1, "cache": tmp_path / "cache"}
    place = run(model, data, tmp_path / "run", "dpo", **given)
    assert {each.name for each in tmp_path.iterdir()} == {"run", "cache", "cache-losers"}
    assert not {"cache", "losers"} & {each.name for each in (tmp_path / "run").iterdir()}
    loaded = sampled(model, place)
    layers = dict(loaded.unet.named_parameters())
    for name, tensor in read_tensors(tmp_path / "run" / "training" / "ncp" / "student.safetensors").items():
        key = name.removeprefix("average.").replace("/", ".").replace(".default.", ".lora.")
        assert torch.equal(layers[key], tensor), key
    with pytest.raises(UnboxError, match=r"beta was 2500.0, is 3.0"):
        run(model, data, tmp_path / "run", "dpo", **given, beta=3.0)


def test_losers_that_are_no_pairs_are_refused_by_name(model, data, tmp_path):
    other = folder_of(tmp_path / "data", {"0": "a red cat 0", "1": "a dog", "2": "a red cat 2"})
    folder_of(tmp_path / "losers", {f"{i}": f"a red cat {i}" for i in range(3)})
    with pytest.raises(
        UnboxError, match=r"1.png \('a red cat 1'\) stands where --data has 1.png \('a dog'\)"
    ):
        run(model, other, tmp_path / "run", "dpo")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ncp --data shapes --limit 2", "learns from pairs: name the images"),
        ("ncp --data {data} --losers shapes", "--losers shapes changes the scenes of --data shapes"),
        ("ncp --data {data} --objective sft --losers {data}", "--losers does nothing for --objective sft"),
        ("turbo --data {data} --projector nowhere", "there is no folder nowhere"),
        ("distar --data {data} --reward detector", "reads the scenes of --data shapes"),
        ("distar --data {data} --reward-weight 3", "is for a reward"),
        ("lightning --data {data} --student-steps 3", "should fall, each a divisor"),
        ("lightning --data {data} --predict-x0", "is for full, the last of student_steps 1"),
        ("novelai --data {data} --no-full", "predicts epsilon: a LoRA keeps that, --full learns v"),
        ("lightning --data {data} --arm ladd", "should be one number for ladd"),
    ],
)
def test_what_does_not_suit_is_refused_before_anything_is_written(
    model, data, tmp_path, capsys, words, message
):
    line = f"recipe {words.format(data=data)} --model {model} --device cpu --out {tmp_path}/run"
    assert main(line.split()) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    ["turbo", "lightning --teacher-steps 4 --student-steps 2 1", "distar --full --reward detector"],
)
def test_a_dry_run_says_what_a_run_costs_and_writes_nothing(model, tmp_path, capsys, words):
    line = f"recipe {words} --model {model} --data shapes --limit 4 --resolution 64 --device cpu --dry-run"
    assert main([*line.split(), "--mixed-precision", "no", "--out", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert "for 4 images" in told
    assert "one measured on cpu" in told
    assert not (tmp_path / "run").exists()
