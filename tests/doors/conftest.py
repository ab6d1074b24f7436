"""A folder with one small example of everything that a command reads, made by commands."""

import json

import pytest

from tests.models.tiny import tiny_pipeline
from unbox.cli.main import main


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    here = tmp_path_factory.mktemp("doors")
    tiny_pipeline(here / "model", timestep_spacing="trailing")
    (here / "prompts.txt").write_text("".join(f"a red cat {i}\n" for i in range(8)))
    (here / "edit.json").write_text('[{"block": "mid.0", "op": "scale", "value": 0}]')
    (here / "plan.toml").write_text('tokens = 512\n[[sae]]\nblock = "mid.0"\nk = 2\nlatents = 16\n')
    (here / "experiment.toml").write_text(
        f'model = "{here}/model"\nprompts = ["a cat"]\nsteps = 1\n'
        '[[edit]]\nblock = "mid.0"\nop = "scale"\nvalue = 0.0\n'
    )
    (here / "riebench.json").write_text(json.dumps({"data": []}))
    look = ["--blocks", "mid.0", "--steps", "1", "--guidance", "0", "--batch-size", "4"]
    model, store, saes = (f"{here}/{name}" for name in ("model", "store", "saes"))
    lines = [
        ["collect", "--model", model, "--prompts", f"{here}/prompts.txt", "--store", store, *look],
        ["train", "--store", store, "--out", saes, "--latents", "16", "--k", "2", "--tokens", "512",
         "--batch-size", "64"],
        ["atlas", "--saes", saes, "--store", store, "--out", f"{here}/atlas", "--model", "none"],
        ["generate", "--model", model, "--prompt", "cat", "--seed", "1", "--steps", "1", "--guidance", "0",
         "--out", f"{here}/image.png"],
    ]  # fmt: skip
    for line in lines:
        assert main(line) == 0
    return here
