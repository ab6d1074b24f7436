"""`unbox invert`: from an image on disk to its fidelity, its features and an edited PNG."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.edits.dictionaries import random_sae
from unbox.cli.main import main
from unbox.edit import Block
from unbox.edits import save_edits
from unbox.shapes import Scene, prompts, render


@pytest.fixture
def picture(tmp_path):
    told = prompts(1, seed=5, split="heldout", full=True, pairs=0.0)[0]
    Image.fromarray(render(Scene.from_json(told.meta["scene"]))).resize((128, 100)).save(
        tmp_path / "mine.png"
    )
    return tmp_path / "mine.png", told.text


def test_an_image_is_inverted_read_and_edited(picture, tmp_path, capsys):
    path, prompt = picture
    random_sae("up.1.1", width=64, latents=128, k=4).save(tmp_path / "saes" / "up.1.1")
    save_edits(Block("up.1.1").scale(0.5), tmp_path / "edits.json")
    line = ["invert", str(path), "--prompt", prompt, "--steps", "2", "--start", "1"]
    assert (
        main([*line, "--out", str(tmp_path / "a.png"), "--saes", str(tmp_path / "saes"), "--limit", "3"]) == 0
    )
    said = capsys.readouterr().out
    assert "dB" in said
    assert said.count("up.1.1/") == 3
    assert main([*line, "--out", str(tmp_path / "b.png"), "--edits", str(tmp_path / "edits.json")]) == 0
    with Image.open(tmp_path / "a.png") as plain, Image.open(tmp_path / "b.png") as edited:
        assert plain.size == edited.size == (128, 128)
        assert not np.array_equal(np.asarray(plain), np.asarray(edited))
        assert any("scale" in json.dumps(value) for value in edited.info.values())


def test_a_start_beyond_the_steps_is_a_mistake(picture, tmp_path, capsys):
    assert (
        main(["invert", str(picture[0]), "--steps", "2", "--start", "2", "--out", str(tmp_path / "x.png")])
        == 2
    )
    assert "0 to 1" in capsys.readouterr().err


def test_a_picture_of_another_request_is_not_replaced_silently(picture, tmp_path, capsys):
    out = tmp_path / "a.png"
    line = ["invert", str(picture[0]), "--steps", "2", "--start", "1", "--out", str(out)]
    assert main(line) == 0
    first = out.read_bytes()
    assert main(line) == 0
    assert f"{out} is there already" in capsys.readouterr().out
    assert main([*line, "--seed", "4"]) == 2
    assert (
        "an image of another seed (0, not 4): give another --out, or --overwrite" in capsys.readouterr().err
    )
    assert out.read_bytes() == first
    assert main([*line, "--seed", "4", "--overwrite"]) == 0
    assert out.read_bytes() != first
    Image.new("RGB", (4, 4)).save(out)
    assert main(line) == 2
    assert "something else than an image of unbox" in capsys.readouterr().err
