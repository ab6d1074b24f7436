"""What the stages make: pictures, stores, autoencoders."""

from pathlib import Path
from typing import Any, TypedDict

from activation_store import Store
from unbox.atlas import Atlas, build
from unbox.capture import collect
from unbox.ground_truth.demo.demo_plan import QUALITY, DemoPlan
from unbox.ground_truth.effects import Cases, ModelUnderTest
from unbox.image_uri import image_uri
from unbox.models import Model
from unbox.prompt import Prompt
from unbox.result_cache import Stage
from unbox.sae import SAE, Spec, load_saes, train
from unbox.shapes import Split, prompts
from unbox.shapes.detector import Detector


class PackedCases(TypedDict):
    """Cases as JSON."""

    prompts: list[dict[str, Any]]
    seeds: list[int]
    images: list[str]
    """Data URIs."""
    readings: list[dict[str, str]]


#: Rows of a training step: small, so that a million of them make many steps.
BATCH = 2048


def draw(model: Model, plan: DemoPlan) -> dict[str, PackedCases]:
    """Unedited pictures of the trial and test cases, and what is read from them, as JSON."""
    subject = under_test(model, plan)
    return {
        name: packed(subject.cases(count, plan.seed + shift))
        for shift, (name, count) in enumerate((("trial", plan.trial_pool), ("test", plan.test_pool)), start=3)
    }


def under_test(model: Model, plan: DemoPlan) -> ModelUnderTest:
    """The model with the detector, and with the plan's way of drawing."""
    return ModelUnderTest(model, Detector.load(), {"steps": plan.steps, "guidance": plan.guidance})


def packed(cases: Cases) -> PackedCases:
    """Cases as JSON, their images as data URIs."""
    return {
        "prompts": [{"text": prompt.text, "meta": dict(prompt.meta)} for prompt in cases.prompts],
        "seeds": list(cases.seeds),
        "images": [i if isinstance(i, str) else image_uri(i, quality=QUALITY) for i in cases.images],
        "readings": list(cases.readings),
    }


def unpacked(saved: PackedCases) -> Cases:
    """Inverse of `packed`; the images stay data URIs."""
    prompts = tuple(Prompt(**prompt) for prompt in saved["prompts"])
    return Cases(prompts, tuple(saved["seeds"]), tuple(saved["images"]), tuple(saved["readings"]))


def gather(model: Model, plan: DemoPlan, to: Path, split: Split, n: int, seed: int) -> dict[str, Any]:
    """Record the updates of all blocks while full captions of a split are drawn.

    Pictures are kept of the held-out split only, which the report shows; the others are not even decoded.
    """
    side = 64 if split == "heldout" else None
    store = collect(
        model, prompts(n, seed, split), to, blocks=model.blocks, seed=seed, thumbnail=side, **plan.drawing
    )
    return {"pictures": len(store), "digest": store.digest}


def fit(store: Stage, plan: DemoPlan, to: Path) -> list[str]:
    """An SAE for every block of a store."""
    spec = Spec(latents=plan.latents, k=plan.k, seed=plan.seed)
    return list(train(opened(store), to, [spec], tokens=plan.tokens, batch_size=BATCH, seed=plan.seed))


def describe(model: Model, heldout: Stage, trained: Stage, to: Path) -> int:
    """An atlas of the SAEs' features from the held-out pictures; gives how many features it holds."""
    build(opened(heldout), autoencoders(trained), to, model=model)
    return len(Atlas.open(to))


def opened(collected: Stage) -> Store:
    """The store that a stage collected."""
    return Store.open(collected.folder / "store")


def autoencoders(trained: Stage) -> dict[str, SAE]:
    """The SAEs that a stage fitted, by block, in the order of the UNet."""
    saes = load_saes(trained.folder / "saes")
    return {block: saes[block] for block in sorted(saes, key=depth)}


def depth(block: str) -> tuple[int, str]:
    """Sorts block names in the order in which the UNet runs them."""
    return ("down", "mid", "up").index(block.split(".")[0]), block
