"""Options that would do nothing: refused by name, with the value that is the default too."""

import re

import pytest

from unbox.cli.idle_options import IDLE
from unbox.cli.main import main

NEEDED = {
    "collect": "--prompts p.txt --store s",
    "train": "--store s --out o",
    "evaluate": "--saes s --store t",
    "atlas": "--saes s --store t --out o",
    "features": "--atlas a",
    "label": "--atlas a --endpoint http://e/v1 --endpoint-model m",
    "diff": "--models a b --prompts p.txt --out o",
    "generate": "--prompt a",
    "recipe_shapes": "--out o",
    "invert": "p.png",
    "recipe_sdxl": "--data d --out o",
}

#: A command line -> the option that would do nothing, and what is said of it.
LINES = {
    "collect --gpus 1": "--gpus is for --dry-run",
    "collect --gpus=2": "--gpus is for --dry-run",
    "collect --dry-run --world 1": "--world is not for --dry-run",
    "collect --dry-run --on-bad skip": "--on-bad is not for --dry-run",
    "train --plan p.toml --k 10": "--k is not for --plan",
    "train --plan p.toml --tokens 100": "--tokens is not for --plan",
    "train --plan p.toml --batch_size 4096": "--batch-size is not for --plan",
    "train --plan p.toml --no-scaled": "--no-scaled is not for --plan",
    "train --resume --plan p.toml": "--plan is not for --resume",
    "train --resume --seed 0": "--seed is not for --resume",
    "train --prompts p.txt": "--prompts is for images that are generated: with --store there are none",
    "train --model shapes-turbo": "--model is for images that are generated",
    "train --dry-run": "--dry-run is for images that are generated",
    "train --gpus 2": "--gpus is for --dry-run",
    "train --freeze-encoder": "--freeze-encoder trains the decoder of SAEs that are there: say which",
    "train --init-from i --freeze-encoder --aux 0.1": "--aux is not for --freeze-encoder",
    "train --init-from i --centre mean": "--centre is not for --init-from",
    "evaluate --model shapes-turbo": "--model is of a model, which draws images",
    "evaluate --offline": "--offline is of a model",
    "atlas --model none --dtype float32": "--dtype is of a model",
    "features red --offline": "--offline is of a model",
    "features red --device cpu": "--device is of a model",
    "features red --model shapes-turbo --order density": "--order is not for --model",
    "features up.0.1/17 --labelled": "--labelled is not for a feature's name",
    "features up.0.1/17 --limit 20": "--limit is not for a feature's name",
    "label --features a/1 --limit 20": "--limit is for features that are not named",
    "diff --lora l": "--lora is of one system: say it in --models",
    "diff --saes s --latents 64": "--latents is of SAEs that are trained",
    "diff --stores s t": "--models is of systems that are drawn: --stores are there",
    "generate --strength 0.3": "--strength says how much of --image IMAGE is redrawn; there is no image",
    "generate --mask m.png": "--mask says where --image IMAGE is drawn anew; there is no image",
    "generate --controlnet c": "--controlnet is for --control PICTURE",
    "generate --control-strength 1": "--control-strength is for --control PICTURE",
    "generate --saes s": "--saes has no use without --edits",
    "generate --aspect 1:1 --width 64": "--width is in the place of --aspect",
    "recipe_shapes --stages vae --finish-minutes 5": "--finish-minutes is of the few-step finish",
    "recipe_shapes --dry-run --device cpu": "--device is not for --dry-run, which trains nothing",
    "recipe_sdxl --recipe r.toml --lora-rank 4": "--lora-rank is not for --recipe",
    "recipe_sdxl --gpus 2": "--gpus is for --dry-run",
    "recipe_sdxl --full --lora-rank 4": "--lora-rank is of a LoRA",
    "recipe_sdxl --offload model": "--offload is for drawing",
    "recipe_sdxl --split train": "--split is of shapes or of a data set of the Hub",
    "invert --limit 5": "--limit is for features, which need --saes",
}


@pytest.mark.parametrize("line", LINES)
def test_an_option_that_would_do_nothing_is_refused(line, capsys):
    command, *rest = line.split()
    assert main([*command.split("_"), *NEEDED[command].split(), *rest]) == 2
    assert f"unbox: {LINES[line]}" in capsys.readouterr().err


@pytest.mark.parametrize("command", IDLE)
def test_every_row_names_options_of_its_command(command, capsys):
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    there = set(re.findall(r"--(?:no-)?([a-z0-9-]+)", capsys.readouterr().out))
    assert {name for idle in IDLE[command] for name in idle.options} <= there


def test_a_bad_row_is_told_before_a_model_is_loaded(tmp_path, capsys, monkeypatch):
    (tmp_path / "p.csv").write_text("prompt,n\na cat,1\na cat, asleep,2\n")
    monkeypatch.setattr(
        "unbox.cli.model_options.ModelOptions.load", lambda self: pytest.fail("it was loaded")
    )
    assert main(["collect", "--prompts", f"{tmp_path}/p.csv", "--store", "s"]) == 2
    assert "row 2 (line 3) of" in capsys.readouterr().err


def test_a_split_of_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "p.txt").write_text("a cat")
    assert main(["collect", "--prompts", f"{tmp_path}/p.txt", "--store", "s", "--split", "train"]) == 2
    assert "p.txt is a file and has no split train" in capsys.readouterr().err
