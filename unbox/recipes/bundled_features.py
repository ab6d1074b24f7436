"""SAEs and an atlas of a Shapes model: those that the package brings, made from nothing but the weights."""

import sys
from pathlib import Path

from activation_store import Store
from unbox.atlas import build
from unbox.capture import collect
from unbox.models import Model, load
from unbox.sae import load_saes, specs, train
from unbox.shapes import prompts
from unbox.site import DEFAULT_BLOCKS

IMAGES, LATENTS, ACTIVE, TOKENS = 2000, 384, 8, 600_000


def make_features(model: Model, folder: Path) -> Path:
    """`saes` and `atlas` in `folder`, which is returned: collects, trains, builds; resumable.

    The package's own: `python -m unbox.recipes.bundled_features shapes-turbo FOLDER`.
    """
    if (folder / "atlas" / "atlas.json").is_file():
        return folder
    print(
        f"Making features of the bundled model in {folder}, once. Stop at any time; the next start goes on."
    )
    folder.mkdir(parents=True, exist_ok=True)
    collect(model, prompts(IMAGES, seed=11, full=True), folder / "store", blocks=DEFAULT_BLOCKS)
    store = Store.open(folder / "store")
    train(store, folder / "saes", specs(store.blocks, k=ACTIVE, latents=LATENTS), tokens=TOKENS)
    build(store, load_saes(folder / "saes"), folder / "atlas", model=model)
    return folder


if __name__ == "__main__":
    make_features(load(sys.argv[1]), Path(sys.argv[2]))
