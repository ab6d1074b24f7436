"""Where a system lacks what Windows lacks: pictures are made, and what needs locks is refused by name.

Simulated, in a process of its own: modules and names that Windows has not are taken away before unbox is
imported.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: The libraries come first: on Linux theirs need these names.
SIMULATION = """
import importlib.abc, os, signal, sys
import torch, diffusers, transformers, h5py, scipy.stats, pydantic, tyro, jinja2, tqdm.auto, peft
import safetensors.torch, accelerate, huggingface_hub, psutil
from diffusers import StableDiffusionXLPipeline, EulerAncestralDiscreteScheduler, AutoencoderKL
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource", "pwd", "grp", "termios"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Absent())
ABSENT = "O_NOFOLLOW O_CLOEXEC O_NONBLOCK O_DIRECT pread preadv pwrite sysconf posix_fadvise"
for name in ABSENT.split():
    delattr(os, name)
del signal.SIGHUP
assert not any(name.split(".")[0] in ("unbox", "activation_store") for name in sys.modules)
from unbox.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def unbox(*words, cwd):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SIMULATION, *map(str, words)],
        cwd=cwd, capture_output=True, text=True, env={**__import__("os").environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


SHAPES = ("--model", "shapes-turbo", "--steps", "1", "--device", "cpu")


def test_pictures_are_made(tmp_path):
    code, _, said = unbox(
        "generate", "--prompt", "a red circle", "--seed", "1", *SHAPES, "--out", "a.png", cwd=tmp_path
    )
    assert code == 0, said
    assert (tmp_path / "a.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "--version",
        "--help",
        "models",
        "sae info {saes}",
        "features red --atlas {atlas}",
        "invert a.png --steps 2",
    ],
)
def test_what_needs_no_lock_works(line, tmp_path):
    from PIL import Image

    bundled = ROOT / "unbox" / "explorer" / "bundled"
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    code, said, wrong = unbox(
        *line.format(saes=bundled / "saes", atlas=bundled / "atlas").split(), cwd=tmp_path
    )
    assert code == 0, wrong
    assert said.strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "collect --prompts shapes --limit 2 --store acts",
        "collect --prompts shapes --limit 2 --store acts --dry-run",
        "train --store acts --out saes --k 2 --latents 16",
        "store info acts",
        "demo --out demo",
    ],
)
def test_what_needs_locks_is_refused_by_name(line, tmp_path):
    model = SHAPES if line.startswith("collect") else ()
    code, _, said = unbox(*line.split(), *model, cwd=tmp_path)
    assert code == 2, said
    assert "cannot be used: stores and folders of runs need locks (flock)" in said
    assert "WSL 2" in said
    assert "Traceback" not in said
