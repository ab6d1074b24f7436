"""Every command that takes SAEs beside a model or a store says where they are of different models."""

import json
import shutil

import pytest
from PIL import Image

from tests.models.tiny import tiny_pipeline
from unbox.cli.main import main
from unbox.edit import Edits
from unbox.edits import save_edits
from unbox.sae import SAE, load_saes

pytestmark = pytest.mark.slow
SIZE = ["--height", "32", "--width", "32"]


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A store and an SAE of one tiny model, and another model of the same shape beside them."""
    room = tmp_path_factory.mktemp("room")
    for name, seed in (("one", 0), ("two", 5)):
        tiny_pipeline(room / name, seed=seed, timestep_spacing="trailing")
    (room / "prompts.txt").write_text("a red cat\na dog\na blue boat\n")
    collect = ["collect", "--prompts", str(room / "prompts.txt"), "--store", str(room / "acts"), "--model"]
    assert (
        main([*collect, str(room / "one"), "--blocks", "mid.0", "--steps", "1", "--guidance", "0", *SIZE])
        == 0
    )
    train = [
        "train",
        "--store",
        str(room / "acts"),
        "--out",
        str(room / "saes"),
        "--latents",
        "16",
        "--k",
        "2",
    ]
    assert main([*train, "--tokens", "500", "--batch-size", "64", "--device", "cpu"]) == 0
    feature = SAE.load(room / "saes/mid.0").feature(1)
    save_edits(Edits((feature.add(1.0, unit="absolute"),)), room / "edits.json")
    Image.new("RGB", (32, 32), "red").save(room / "red.png")
    plan = {"model": "", "saes": "saes", "prompts": ["a cat"], "steps": 1, "guidance": 0.0}
    lines = [f"{name} = {json.dumps(value)}" for name, value in {**plan, "height": 32, "width": 32}.items()]
    (room / "plan.toml").write_text(
        "\n".join(
            [*lines, "[[edit]]", 'block = "mid.0"', "feature = 1", 'op = "add"', "value = 1.0"]
        ).replace('model = ""', 'model = "one"')
    )
    return room


COMMANDS = {
    "generate": ["generate", "--prompt", "a cat", "--steps", "1", *SIZE, "--edits", "{room}/edits.json"],
    "invert": ["invert", "{room}/red.png", "--steps", "2", *SIZE],
    "atlas": ["atlas", "--store", "{room}/acts", "--places", "64", "--probes", "4", "--top", "2"],
    "evaluate": ["evaluate", "--store", "{room}/acts", "--images", "1"],
    "experiment": ["experiment", "{room}/plan.toml"],
}


def typed(command, room, out, model, policy):
    words = [word.format(room=room) for word in COMMANDS[command]]
    place = out / ("image.png" if command in ("generate", "invert") else "out")
    words += ["--saes", str(room / "saes"), "--model", str(room / model), "--out", str(place)]
    return [*words, *(["--model-mismatch", policy] if policy else [])]


@pytest.mark.parametrize("command", COMMANDS)
def test_another_model_is_named(command, room, tmp_path, capsys):
    assert main(typed(command, room, tmp_path, "two", "refuse")) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--model-mismatch allow" in error
    assert "one" in error
    assert "two" in error
    assert not list(tmp_path.iterdir())
    assert main(typed(command, room, tmp_path, "two", None)) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unbox: warning:")]
    assert len(warned) == 1
    assert "they do not belong together" in warned[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_what_belongs_together_is_not_spoken_of(command, room, tmp_path, capsys):
    assert main(typed(command, room, tmp_path, "one", "refuse")) == 0
    assert "warning" not in capsys.readouterr().err


def test_an_option_without_a_use_is_refused(room, tmp_path, capsys):
    for words in (["generate", "--prompt", "a"], ["invert", str(room / "red.png")]):
        out = ["--out", str(tmp_path / "x.png"), "--model", str(room / "one")]
        assert main([*words, *out, "--model-mismatch", "allow"]) == 2
        assert "--saes" in capsys.readouterr().err


def test_the_explorer(room, tmp_path):
    from activation_store import Store
    from unbox.atlas import build
    from unbox.explorer.open_session import open_session
    from unbox.model_mismatch import ModelMismatchWarning
    from unbox.models import load

    with pytest.warns(ModelMismatchWarning, match="SAE mid.0 trained on one"):
        open_session(load(str(room / "two"), device="cpu"), room / "saes")
    model, saes = load(str(room / "one"), device="cpu"), load_saes(room / "saes")
    build(Store.open(room / "acts"), saes, tmp_path / "atlas", progress=False)
    open_session(model, room / "saes", tmp_path / "atlas")
    shutil.copytree(room / "saes/mid.0", tmp_path / "saes/mid.0")
    config = json.loads((tmp_path / "saes/mid.0/config.json").read_text())
    (tmp_path / "saes/mid.0/config.json").write_text(json.dumps({**config, "k": 3}))
    with pytest.warns(ModelMismatchWarning, match="is of other SAEs"):
        open_session(model, tmp_path / "saes", tmp_path / "atlas")
