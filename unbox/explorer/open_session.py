"""What the explorer opens: a model, its SAEs, its atlas; from folders, or made once for the bundled model."""

import os
import sys
from pathlib import Path
from typing import Any

from activation_store import read_json
from unbox.atlas import Atlas, build
from unbox.blocks import DEFAULT_BLOCKS
from unbox.errors import UnboxError
from unbox.explorer.session import ExplorerSession
from unbox.models import SYSTEMS, load
from unbox.sae import load_saes

#: SAEs and atlas that the package brings, and the system that they are of.
BUNDLED, SYSTEM = Path(__file__).parent / "bundled", "shapes-turbo"
#: What `prepare` makes them of: the paper's four blocks, and two that carry colour, light and background.
BLOCKS = (*DEFAULT_BLOCKS, "up.1.1", "up.1.2")
IMAGES, LATENTS, ACTIVE, TOKENS = 2000, 384, 8, 600_000


def open_session(
    model: str, saes: Path | None = None, atlas: Path | None = None, figures: Path | None = None,
    bench: Path | None = None, device: str | None = None,
) -> ExplorerSession:  # fmt: skip
    """A session of what was named. The bundled model without SAEs gets those of the package, whose labels are
    kept in the user's cache; any other Shapes model gets its own, made once, in minutes; another model is
    shown without."""
    loaded = load(model, device=device)
    name, own = loaded.system.name, None
    if saes is None and name.startswith("shapes"):
        bundled = name == SYSTEM and (BUNDLED / "saes").is_dir()
        folder = BUNDLED if bundled else prepare(loaded, cache() / name)
        saes, own = folder / "saes", None if atlas else cache() / "labels"
        atlas = atlas or folder / "atlas"
    return ExplorerSession(
        loaded,
        {} if saes is None else load_saes(saes, loaded.device),
        None if atlas is None else Atlas.open(atlas, own),
        [each for each in SYSTEMS if each.startswith("shapes") and ready(each)]
        if name.startswith("shapes")
        else (),
        figures=None if figures is None else read_json(figures),
        bench=None if bench is None else read_json(bench / "results.json" if bench.is_dir() else bench),
        folder=saes,
    )


def ready(system: str) -> bool:
    """Whether a bundled system's weights are here."""
    from unbox.models.weights import base_folder

    try:
        return base_folder(SYSTEMS[system].base or "", False).is_dir()
    except UnboxError:
        return False


def prepare(model: Any, folder: Path) -> Path:
    """SAEs and an atlas of the bundled model in `folder`: collects, trains, builds; resumable.

    This is also how what the package bundles is made:
    `python -m unbox.explorer.open_session shapes-turbo FOLDER`.
    """
    from activation_store import Store
    from unbox.capture import collect
    from unbox.sae import specs, train
    from unbox.shapes import prompts

    if (folder / "atlas" / "atlas.json").is_file():
        return folder
    print(
        f"Making features of the bundled model in {folder}, once. Stop at any time; the next start goes on."
    )
    folder.mkdir(parents=True, exist_ok=True)
    collect(model, prompts(IMAGES, seed=11, full=True), folder / "store", blocks=BLOCKS)
    store = Store.open(folder / "store")
    train(store, folder / "saes", specs(store.blocks, k=ACTIVE, latents=LATENTS), tokens=TOKENS)
    build(store, load_saes(folder / "saes"), folder / "atlas", model=model)
    return folder


def cache() -> Path:
    """The user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unbox"


if __name__ == "__main__":
    prepare(load(sys.argv[1]), Path(sys.argv[2]))
