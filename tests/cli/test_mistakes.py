"""What users get wrong at the command line: one clear line, exit code 2, nothing half-written."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from activation_store import Store
from tests.models.tiny import tiny_pipeline
from unbox.cli.main import main

ROOT = Path(__file__).parents[2]
LOOK = ["--steps", "1", "--guidance", "0", "--batch-size", "4"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a tiny model, prompts, a store of it and an SAE of that, all made by commands."""
    here = tmp_path_factory.mktemp("made")
    tiny_pipeline(here / "model", timestep_spacing="trailing")
    tiny_pipeline(here / "other", seed=5, timestep_spacing="trailing")
    (here / "prompts.txt").write_text("".join(f"a red cat {i}\n" for i in range(8)))
    (here / "empty.txt").write_text("\n")
    (here / "edit.json").write_text('[{"block": "mid.0", "op": "add", "value": 1, "feature": [3]}]')
    (here / "beyond.json").write_text('[{"block": "mid.0", "op": "add", "value": 1, "feature": [4000]}]')
    (here / "absent.json").write_text('[{"block": "mid.4", "op": "scale", "value": 0}]')
    (here / "broken.json").write_text('{"edits": [')
    store = ["--store", f"{here}/store", "--blocks", "mid.0"]
    collected = ["collect", "--model", f"{here}/model", "--prompts", f"{here}/prompts.txt"]
    assert main([*collected, *store, *LOOK]) == 0
    trained = ["train", "--store", f"{here}/store", "--out", f"{here}/saes", "--latents", "16", "--k", "2"]
    assert main([*trained, "--tokens", "512", "--batch-size", "64"]) == 0
    shutil.copytree(here / "saes", here / "damaged")
    weights = next((here / "damaged").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-7])
    return here


COLLECT = "collect --model {}/model --prompts {}/prompts.txt --store {}/new --steps 1"
GENERATE = "generate --model {}/model --prompt cat --seed 1 --steps 1 --guidance 0 --out {}/new.png"

MISTAKES = {
    "unknown block": (f"{COLLECT} --blocks mid.7", ["mid.7", "mid.0", "up.1.2"]),
    "malformed block": (f"{COLLECT} --blocks middle", ["middle", "mid.0"]),
    "unknown system": ("collect --model sdxl-turbu --prompts {}/prompts.txt --store {}/new", ["sdxl-turb"]),
    "no prompt file": ("collect --model {}/model --prompts {}/none.txt --store {}/new", ["none.txt"]),
    "empty prompts": ("collect --model {}/model --prompts {}/empty.txt --store {}/new", ["empty.txt"]),
    "endless prompts": ("collect --model {}/model --prompts shapes --store {}/new", ["--limit"]),
    "no steps": ("collect --model {}/model --prompts {}/prompts.txt --store {}/new --steps 0", ["0"]),
    "store of another model": (
        "collect --model {}/other --prompts {}/prompts.txt --store {}/store --blocks mid.0 --steps 1"
        " --guidance 0",
        ["store"],
    ),
    "unwritable folder": (COLLECT.replace("{}/new", "{}/prompts.txt/new"), ["prompts.txt"]),
    "k over latents": ("train --store {}/store --out {}/new --latents 8 --k 9", ["9", "8"]),
    "block not stored": ("train --store {}/store --out {}/new --blocks up.0.1", ["up.0.1", "mid.0"]),
    "no store": ("train --store {}/model --out {}/new", ["model"]),
    "no store to look at": ("store info {}/nothing", ["nothing"]),
    "damaged SAE": ("evaluate --saes {}/damaged --store {}/store", ["damaged"]),
    "no SAEs": ("evaluate --saes {}/model --store {}/store", ["model"]),
    "no edit file": (f"{GENERATE} --saes {{}}/saes --edits {{}}/none.json", ["none.json"]),
    "broken edit file": (f"{GENERATE} --saes {{}}/saes --edits {{}}/broken.json", ["broken.json"]),
    "feature beyond": (f"{GENERATE} --saes {{}}/saes --edits {{}}/beyond.json", ["4000", "16"]),
    "edit without SAEs": (f"{GENERATE} --edits {{}}/edit.json", ["mid.0"]),
    "edit of no block": (f"{GENERATE} --edits {{}}/absent.json", ["mid.4", "mid.0"]),
    "strength of no image": (f"{GENERATE} --strength 0.5", ["--strength", "--image"]),
    "limit of no features": ("invert {}/new.png --limit 3", ["--limit", "--saes"]),
    "limit of named features": (
        "label --atlas {}/a --endpoint http://x --endpoint-model x --limit 3 --features mid.0/1",
        ["--limit"],
    ),
    "ranks of a dry run": (f"{COLLECT} --dry-run --rank 1 --world 2", ["--dry-run", "--rank"]),
    "CLIP of no metric": (
        "bench riebench --data {}/x.json --saes {}/saes --out {}/new --clip-model x",
        ["--clip-model", "metrics"],
    ),
    "minutes of no stage": (
        "recipe shapes --out {}/new --stages vae --finish-minutes 1",
        ["--finish-minutes"],
    ),
    "no such experiment": ("experiment {}/none.toml --out {}/new", ["none.toml"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_a_line(made, capsys, name):
    line, told = MISTAKES[name]
    before = sorted(path for path in made.rglob("*"))
    digest = Store.open(made / "store").digest
    code = main([word.replace("{}", str(made)) for word in line.split()])
    shown = capsys.readouterr()
    last = shown.err.strip().splitlines()[-1]
    assert code == 2
    assert last.startswith("unbox: ")
    assert "Traceback" not in shown.err
    for word in told:
        assert word in last
    assert sorted(path for path in made.rglob("*")) == before
    assert Store.open(made / "store").digest == digest


@pytest.mark.slow
def test_ctrl_c_and_the_same_line_again(made, tmp_path):
    words = [
        "collect",
        "--model",
        f"{made}/model",
        "--prompts",
        "shapes",
        "--limit",
        "400",
        "--blocks",
        "mid.0",
    ]
    words += [*LOOK, "--thumbnail", "0", "--store"]

    def start(name):
        # One thread each: another number of threads would round matrix products otherwise.
        with open(tmp_path / f"{name}.log", "w") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "unbox", *words, str(tmp_path / name)],
                stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def said():
        return (tmp_path / "stopped.log").read_text()

    started = start("stopped")
    while not re.search(r" [1-9]\d*/400", said()) and started.poll() is None:
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    assert started.wait(timeout=300) == 130, said()
    assert "Traceback" not in said()
    assert f"unbox {' '.join(words)} {tmp_path / 'stopped'}" in said()
    for run in [start("stopped"), start("whole")]:
        assert run.wait(timeout=300) == 0
    stopped, whole = (Store.open(Path(tmp_path, name)) for name in ("stopped", "whole"))
    assert stopped.digest == whole.digest
    assert not list((tmp_path / "stopped").glob("**/*.tmp"))


@pytest.mark.parametrize(
    ("line", "package", "extra"),
    [
        ("app", "gradio", "app"),
        ("collect --prompts {}/prompts.parquet --store {}/new --limit 1", "pyarrow", "data"),
    ],
)
def test_a_package_of_an_extra_that_is_missing_is_named(line, package, extra, tmp_path):
    (tmp_path / "prompts.parquet").write_bytes(b"PAR1")
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {package!r}:\n"
        f"            raise ModuleNotFoundError('absent', name={package!r})\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from unbox.cli.main import main\n"
        f"sys.exit(main({line.replace('{}', str(tmp_path)).split()!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("unbox:")]
    assert package in told
    assert f"pip install 'unbox[{extra}]'" in told
