"""SAEs, an atlas and calibrated strengths of a Shapes model: those that the package brings, made from nothing
but the weights."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from activation_store import Store
from unbox.atlas import Atlas, Filter, build
from unbox.capture import collect
from unbox.edit import Edits, Feature
from unbox.experiments.critics import critics
from unbox.experiments.feature_strengths import StrengthTrials, Target, target_of, write_strengths
from unbox.models import Model, load
from unbox.prompt import Prompt
from unbox.sae import load_saes, specs, train
from unbox.sae.model import SAE
from unbox.shapes import prompts
from unbox.site import DEFAULT_BLOCKS

IMAGES, LATENTS, ACTIVE, TOKENS = 2000, 384, 8, 600_000
#: The file of strengths beside `saes` and `atlas`; features that are tried of each value that labels name, at
#: most, until one brings it about.
STRENGTHS, TRIED = "strengths.json", 4
#: The factor whose values are calibrated (one feature brings no shape about), and the least score of a label.
CALIBRATED, LEAST_SCORE = "colour", 0.7


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


def calibrate_features(model: Model, folder: Path) -> Path:
    """`strengths.json` beside the SAEs and the atlas in `folder`: of the features whose labels foretell best
    where they fire, the first for each colour that brings it about at some strength. 40 s of a core for each
    that is tried."""
    saes, atlas = load_saes(folder / "saes"), Atlas.open(folder / "atlas")

    def draw(some: Sequence[Prompt], seeds: Sequence[int], edits: Edits | None) -> list[Image.Image]:
        texts = [prompt.text for prompt in some]
        images: list[Image.Image] = model.generate(texts, seeds=list(seeds), edits=edits, batch_size=8)
        return images

    trials = StrengthTrials(draw, critics()["shapes"])
    write_strengths(folder / STRENGTHS, trials, _to_calibrate(saes, atlas))
    return folder / STRENGTHS


def _to_calibrate(saes: dict[str, SAE], atlas: Atlas) -> Iterator[tuple[str, Feature, Target]]:
    """Features whose labels name a value of `CALIBRATED`, the best labels first."""
    taken: Counter[Target] = Counter()
    for facts in atlas.search("", Filter(labelled=True), order="label score", limit=len(atlas)):
        target = target_of(facts.label, critics()["shapes"])
        if target is None or target[0] != CALIBRATED:
            continue
        if taken[target] < TRIED and (facts.score or 0) >= LEAST_SCORE:
            taken[target] += 1
            sae, _, index = facts.name.rpartition("/")
            yield facts.name, saes[sae].feature(int(index)), target


if __name__ == "__main__":
    made = make_features(load(sys.argv[1]), Path(sys.argv[2]))
    calibrate_features(load(sys.argv[1]), made)
