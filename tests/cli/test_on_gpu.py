"""The commands on a card: the whole way from prompts to an edited picture, and one process under torchrun."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EDIT = [{"block": "up.0.1", "feature": [3], "op": "scale", "value": 4}]
pytestmark = pytest.mark.gpu


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:6000] + done.stderr[-2000:]
    return done.stdout


def unbox(*words: str) -> str:
    return run("-m", "unbox", *words)


def test_from_prompts_to_an_edited_picture(tmp_path: Path):
    store, saes, prompts, edit = (
        str(tmp_path / name) for name in ("acts", "saes", "prompts.txt", "edit.json")
    )
    Path(prompts).write_text("\n".join(f"a {c} circle" for c in ("red", "blue", "green", "yellow")))
    Path(edit).write_text(json.dumps(EDIT))
    card = ("--device", "cuda")
    unbox("collect", "--model", "shapes-turbo", "--prompts", prompts, "--store", store, *card)
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "1", "-m", "unbox")
    train = ("train", "--store", store, "--out", saes, "--k", "4", "--latents", "64", "--tokens", "20000")
    run(*torchrun, *train, "--blocks", "up.0.1", *card)
    unbox("evaluate", "--saes", saes, "--store", store, "--out", str(tmp_path / "report"))
    pictures = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.png"
        words = ("--model", "shapes-turbo", "--saes", saes, "--edits", edit, "--seed", "5", "--out", str(out))
        # In float16, as a card computes by itself, four times a feature is another picture.
        unbox("generate", "--prompt", "a red circle", *words, "--device", device, "--dtype", "float32")
        pictures[device] = np.asarray(Image.open(out)).astype(float)
    assert np.abs(pictures["cpu"] - pictures["cuda"]).mean() < 3  # of 255: other sums, the same picture
