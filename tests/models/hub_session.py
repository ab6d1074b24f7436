"""A process that loads systems from a Hub on this machine: the Hub's client reads its address when imported.

`python -m tests.models.hub_session ROOT [SCENARIO ...]` serves the folder, runs the scenarios (all) and
prints what was asked, as JSON.
"""

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.cli.hub_server import hub_of, serve

ROOT = Path(sys.argv[1])
HUB = hub_of(ROOT)
os.environ["HF_ENDPOINT"] = serve(ROOT, HUB)

from huggingface_hub import constants  # noqa: E402 - behind the address

from unbox.errors import UnboxError  # noqa: E402
from unbox.models import SYSTEMS, load  # noqa: E402
from unbox.models.hub import missing, present  # noqa: E402
from unbox.models.systems import BUNDLED, SHARED  # noqa: E402


def fresh_cache():
    constants.HF_HUB_CACHE = tempfile.mkdtemp(dir=ROOT.parent)
    HUB.given.clear()


def weights(repo, without=()):
    """Bytes of a pipeline's weights in half precision, by the disk."""
    files = (ROOT / repo).glob("*/*.fp16.safetensors")
    return sum(file.stat().st_size for file in files if file.parent.name not in (*without, "vae_1_0"))


def sized(row):
    """The row with the sizes of the files that are served."""
    parts = []
    for part in row.parts:
        place = ROOT / part.repo / part.file
        files = [place] if place.is_file() else place.glob("*.safetensors")
        parts.append(replace(part, bytes=sum(file.stat().st_size for file in files)))
    size = weights(row.base)
    return replace(
        row,
        parts=tuple(parts),
        bytes=size,
        unet_bytes=size - weights(row.base, ("unet",)),
        refiner_bytes=weights(row.refiner, SHARED) if row.refiner else 0,
    )


def way(row):
    """What decides the files that a system asks for: of systems that differ in names alone one is tried."""
    parts = tuple((part.kind, part.repo, Path(part.file).suffix) for part in row.parts)
    return row.base, row.refiner, parts


def every_system():
    """Name -> files that `load` asked for with the bytes of each answer; what was said to be missing."""
    found = {}
    fetched = {k: row for k, row in SYSTEMS.items() if row.base and not row.base.startswith(BUNDLED)}
    for name in {way(row): name for name, row in fetched.items()}.values():
        row = SYSTEMS[name]
        fresh_cache()
        SYSTEMS[name] = sized(row)
        before = [need.bytes for need in missing(SYSTEMS[name])]
        load(name)
        assert present(SYSTEMS[name]), name
        given = dict(HUB.given)
        if name.startswith("sdxl-base"):  # one of each way: a second time nothing is asked for
            load(name)
        found[name] = {"given": given, "again": dict(HUB.given) != given, "missing": sum(before)}
        print(f"loaded {name}", file=sys.stderr)
        SYSTEMS[name] = row
    return found


#: What the client writes at one time, and so loses at most; its own are 10 MB, half of the UNet here.
CHUNK = 1 << 20
UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


def a_connection_that_drops():
    """Half of the UNet comes, then the connection breaks off."""
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    fresh_cache()
    base = SYSTEMS["sdxl-base"].base
    HUB.dropping.add(f"{base}/{UNET}")
    load("sdxl-base")
    return dict(HUB.given)


def a_refusal():
    """The UNet is not given: what is said and asked; and what a second call asks once it is."""
    fresh_cache()
    base = SYSTEMS["sdxl-base"].base
    HUB.forbidden.add(f"{base}/{UNET}")
    try:
        load("sdxl-base")
    except UnboxError as error:
        said = str(error)
    first = dict(HUB.given)
    HUB.forbidden.clear()
    HUB.given.clear()
    load("sdxl-base")
    return {"said": said, "first": first, "second": dict(HUB.given)}


def a_single_file():
    """What a checkpoint in one file takes of the Hub."""
    fresh_cache()
    load(ROOT / "checkpoint.safetensors")
    return dict(HUB.given)


def vaes():
    found = {}
    for vae in ("fp16-fix", "taesd"):
        fresh_cache()
        model = load("sdxl-base", vae=vae)
        found[vae] = {"given": dict(HUB.given), "kind": type(model.pipeline.vae).__name__}
    return found


def mistakes():
    """What is said of repositories that are not there, or hold something else."""
    said = {}
    names = ("nobody/nothing", "tianweiy/DMD2", "someone/pickles", "someone/empty", "not a name/at all")
    for name in (*names, "someone/flux"):
        fresh_cache()
        try:
            load(name)
        except UnboxError as error:
            said[name] = str(error)
    return said | {"asked for": list(HUB.given)}


SCENARIOS = (every_system, a_connection_that_drops, a_refusal, a_single_file, vaes, mistakes)
asked = sys.argv[2:] or [each.__name__ for each in SCENARIOS]
print(json.dumps({each.__name__: each() for each in SCENARIOS if each.__name__ in asked}))
