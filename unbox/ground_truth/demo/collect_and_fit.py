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


class PackedCases(TypedDict):
    """Cases as JSON."""

    prompts: list[dict[str, Any]]
    seeds: list[int]
    images: list[str]
    """Data URIs."""
    readings: list[dict[str, str]]


#: Rows of a training step: small, so that a million of them make many steps.
BATCH = 2048


def draw(subject: ModelUnderTest, plan: DemoPlan) -> dict[str, PackedCases]:
    """Unedited pictures of the trial and test cases, and what is read from them, as JSON."""
    trial = subject.cases(plan.trial_pool, plan.seed + 3)
    return {"trial": packed(trial), "test": packed(subject.cases(plan.test_pool, plan.seed + 4))}


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


def gather(
    subject: ModelUnderTest, to: Path, blocks: tuple[str, ...], split: Split, n: int, seed: int
) -> dict[str, int | str]:
    """Record the updates of blocks while full captions of a split are drawn.

    Pictures are kept of the held-out split only, which the report shows; the others are not even decoded.
    """
    model, side = subject.model, 64 if split == "heldout" else None
    store = collect(
        model, prompts(n, seed, split), to / "store", blocks=blocks, seed=seed, thumbnail=side,
        **subject.sampling,
    )  # fmt: skip
    return {"pictures": len(store), "digest": store.digest}


def fit(store: Store, plan: DemoPlan, to: Path) -> list[str]:
    """An SAE for every block of a store."""
    spec = Spec(latents=plan.latents, k=plan.k, seed=plan.seed)
    return list(train(store, to / "saes", [spec], tokens=plan.tokens, batch_size=BATCH, seed=plan.seed))


def describe(model: Model, store: Store, saes: dict[str, SAE], to: Path) -> int:
    """An atlas of the SAEs' features from the held-out pictures; gives how many features it holds."""
    return len(Atlas.open(build(store, saes, to / "atlas", model=model)))


def opened(collected: Stage) -> Store:
    """The store that a stage collected."""
    return Store.open(collected.folder / "store")


def autoencoders(trained: Stage) -> dict[str, SAE]:
    """The SAEs that a stage fitted, by block, in the order of the UNet, which is that of their names."""
    return load_saes(trained.folder / "saes")
