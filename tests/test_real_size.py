"""The main job on SDXL's real architecture with random weights: collect, train, generate with an edit; and
`unbox verify`.

Minutes of computing and 7 GB of disk: runs when UNBOX_REAL_SIZE names a folder to keep the random weights in.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from activation_store import Store
from unbox.site import DEFAULT_BLOCKS

FOLDER = os.environ.get("UNBOX_REAL_SIZE")
LOOK = "--system sdxl-turbo --steps 1"


pytestmark = [
    pytest.mark.real_size,
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(FOLDER is None, reason="UNBOX_REAL_SIZE names no folder for 7 GB of random weights"),
]


def unbox(line: str, code: int = 0) -> None:
    done = subprocess.run([sys.executable, "-m", "unbox", *line.split()], capture_output=True, text=True)
    assert done.returncode == code, (done.stdout + done.stderr)[-2000:]


@pytest.fixture(scope="module")
def model() -> Path:
    from unbox.models.real_size import write_random

    folder = Path(str(FOLDER)) / "sdxl-random"
    return folder if folder.exists() else write_random(folder)


def test_all_is_verified_but_what_random_weights_have_no_saes_for(model, tmp_path):
    page = tmp_path / "page.html"
    size = "--height 512 --width 512 --repeats 1 --prompt dogs"
    unbox(f"verify {model} {size} --device cpu --out {page}", code=3)
    text = page.read_text(encoding="utf-8").partition('id="evidence">')[2].partition("</script>")[0]
    checks = {check["name"]: check for check in json.loads(text)["checks"]}
    assert {name for name, check in checks.items() if check["verdict"] != "pass"} == {"explained variance"}
    assert checks["weights"]["figures"]["parameters"]["unet"] == 2_567_463_684


def test_sixteen_prompts_collected_trained_on_and_edited_within_24_gb(model, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(f"a-picture-of-{n}-dogs" for n in range(16)))
    (tmp_path / "edit.json").write_text(
        '[{"block": "up.0.1", "op": "add", "value": 8, "unit": "deviation", "feature": [7],'
        ' "where": {"box": [0, 0, 0.5, 1]}}]'
    )
    size = "--height 512 --width 512 --batch-size 4"
    unbox(f"collect --model {model} {LOOK} {size} --prompts {tmp_path}/prompts.txt --store {tmp_path}/acts")
    store = Store.open(tmp_path / "acts")
    assert store.blocks == DEFAULT_BLOCKS
    assert all(store[block].shape == (16, 1, 1, 16, 16, 1280) for block in DEFAULT_BLOCKS)

    unbox(
        f"train --store {tmp_path}/acts --out {tmp_path}/saes --k 10 --latents 5120 --tokens 307200"
        " --batch-size 1024"
    )
    draw = f"generate --model {model} {LOOK} --height 512 --width 512 --prompt dogs --seed 1"
    unbox(f"{draw} --out {tmp_path}/plain.png")
    unbox(f"{draw} --out {tmp_path}/edited.png --saes {tmp_path}/saes --edits {tmp_path}/edit.json")
    plain, edited = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("plain", "edited"))
    assert plain.shape == (512, 512, 3)
    assert (plain != edited).any()
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 24e9  # of the largest of them


@pytest.mark.real_size
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(FOLDER is None, reason="UNBOX_REAL_SIZE names no folder for 13 GB of random weights")
def test_two_images_of_1024_pixels_with_an_edit_and_the_refiner_after_it_within_18_gb(tmp_path):
    """And as much as `unbox models DIR --plan` says, within a quarter."""
    from unbox.capture.memory_plan import memory_plan, networks_of
    from unbox.capture.planned_run import PlannedRun
    from unbox.models.real_size import write_random
    from unbox.models.systems import folder_system

    (tmp_path / "edit.json").write_text(
        '[{"block": "up.0.1", "op": "add", "value": 8, "direction": ' + str([0.01] * 1280) + "}]"
    )
    size = "--height 1024 --width 1024 --prompt dogs --seed 1"
    lines = {
        "base": f"--steps 1 --count 2 --batch-size 2 --edits {tmp_path}/edit.json --out {tmp_path}/base.png",
        "refiner": f"--steps 4 --strength 0.3 --image {tmp_path}/base-0.png --out {tmp_path}/fine.png",
    }
    for architecture, line in lines.items():
        folder = Path(str(FOLDER)) / f"sdxl-random{'' if architecture == 'base' else '-refiner'}"
        if not folder.exists():
            write_random(folder, architecture)
        unbox(f"generate --model {folder} {size} {line}")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        assert peak < 18e9
        system = folder_system(folder)
        options = PlannedRun(batch=2, size=1024, guidance=0.0, dtype="bfloat16", card=False)
        if architecture == "base":
            plan = memory_plan(system, networks_of(system, folder), options)
            assert plan.in_memory == pytest.approx(peak, rel=0.25)
    with Image.open(tmp_path / "fine.png") as picture:
        assert picture.size == (1024, 1024)


@pytest.mark.real_size
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(FOLDER is None, reason="UNBOX_REAL_SIZE names no folder: SDXL is not built at its size")
def test_a_step_of_a_lora_learns_an_image_within_18_gb(tmp_path):
    """`unbox recipe sdxl`, 512 px, one image, gradient checkpointing: encoded, learned, written."""
    command = [sys.executable, "-m", "tests.recipes.sdxl.real_size_step", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)
    assert float(done.stdout.split()[-2]) < 18
    assert (tmp_path / "run" / "lora" / "pytorch_lora_weights.safetensors").is_file()
