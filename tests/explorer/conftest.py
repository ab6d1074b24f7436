"""A session on a tiny random SDXL: pictures, SAEs fitted to them, an atlas; and an explorer of it."""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.models.tiny import tiny_pipeline
from unbox.explorer.image_recipe import Recipe

if TYPE_CHECKING:  # needs gradio, which tests on a card do without
    from unbox.explorer.session import ExplorerSession

BLOCKS = ("mid.0", "up.1.2")
PROMPTS = [
    f"a {size} {colour} {thing}"
    for size in ("small", "large")
    for colour in ("red", "green", "blue")
    for thing in ("circle", "square", "star", "cat")
]


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """A folder with `tiny`, `saes` and `atlas`."""
    from dataclasses import replace

    from unbox import collect, fit, load
    from unbox.atlas import Atlas, AtlasPlan, build, set_label
    from unbox.models import System

    home = tmp_path_factory.mktemp("explorer")
    folder = tiny_pipeline(home / "tiny", timestep_spacing="trailing")
    spacing = {"timestep_spacing": "trailing"}
    System(
        "tiny", "a tiny random SDXL", None, "EulerDiscreteScheduler", spacing, steps=2, guidance=0.0, size=64
    ).save(folder)  # fmt: skip
    model = load(str(folder))
    store = collect(model, PROMPTS, home / "store", blocks=BLOCKS, progress=False, thumbnail=64)
    saes = {}
    for block in BLOCKS:
        fitted = fit(store[block], k=4, latents=32, tokens=4000, batch_size=512, progress=False)
        saes[block] = replace(fitted, name=block)
        saes[block].save(home / "saes" / block)
    plan = AtlasPlan(top=4, random=3, per_interval=2, decoys=2, caption_images=8, probes=6, places=500)
    build(store, saes, home / "atlas", plan=plan, model=model, progress=False)
    set_label(Atlas.open(home / "atlas"), "mid.0/3", "something red", "the tests")
    return home


@pytest.fixture(scope="session")
def session(home) -> "ExplorerSession":
    from unbox import load
    from unbox.explorer.open_session import open_session

    return open_session(load(str(home / "tiny")), home / "saes", home / "atlas")


@pytest.fixture
def recipe() -> Recipe:
    return Recipe("tiny", "a red cat", 7, 2, 0.0, 64, 64)


@pytest.fixture(scope="session")
def comparison(tmp_path_factory) -> Path:
    """The folder of a comparison of `base` and `less`, in which channel 2 is unlearned, with their stores."""
    import io

    from PIL import Image

    from tests.experiments.diff.planted_systems import channel_sae, store_of, system_rows
    from unbox.experiments.diff.compared_stores import GivenStores
    from unbox.experiments.diff.diff_settings import DiffSettings
    from unbox.experiments.diff.run_diff import DiffRun, run_diff

    folder, stores = tmp_path_factory.mktemp("comparison"), {}
    for own, (name, change) in enumerate({"base": {}, "less": {2: -0.6}}.items()):
        stream = io.BytesIO()
        Image.new("RGB", (16, 16), ("red", "blue")[own]).save(stream, "WEBP")
        rows = system_rows(32, 1, change, own=own)
        stores[name] = store_of(folder / "stores" / name, rows, picture=stream.getvalue())
    settings = DiffSettings(blocks=("mid.0",), latents=12, k=4, flips=50, splits=4, shown=5)
    run_diff(DiffRun(GivenStores(stores), settings, {"mid.0": channel_sae()}, progress=False), folder)
    return folder


def served(home: Path, *options: str) -> tuple[subprocess.Popen, str]:
    """`unbox app` in a process of its own, once it answers, and what it printed."""
    words = ["app", "--model", home / "tiny", "--saes", home / "saes", "--atlas", home / "atlas", *options]
    return started([*map(str, words)], home)


def started(words: list[str], home: Path) -> tuple[subprocess.Popen, str]:
    """The process of a command line that serves, once it answers, and what it printed, also into
    PROCESS-ID.log."""
    with tempfile.NamedTemporaryFile(dir=home, suffix=".log", delete=False) as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "unbox", *words], stdout=log, stderr=subprocess.STDOUT
        )
    (home / f"{process.pid}.log").symlink_to(log.name)
    said = ""
    while "The explorer is at" not in said:
        time.sleep(0.1)
        said = Path(log.name).read_text()
        if process.poll() is not None:
            raise AssertionError(said)
    return process, said


def stop(process: subprocess.Popen) -> None:
    """End it, and wait until it is gone."""
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture(scope="session")
def url(home):
    """Address of an explorer that runs while the tests do."""
    process, said = served(home)
    found = re.search(r"at (http\S+)", said)
    assert found is not None
    yield found[1]
    stop(process)
