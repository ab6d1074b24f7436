"""RIEBench's kinds of edits that exist in Shapes, made by transport between two captions.

A pair is a scene and the same scene with one thing changed, captioned in the same words but for the change.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from einops import rearrange

from unbox.capture import record
from unbox.edit import Edits, Feature
from unbox.edits import neurons
from unbox.edits.transport import UpdatePair
from unbox.ground_truth.effects import ModelUnderTest, factors_of
from unbox.mask import Mask
from unbox.shapes import FACTORS, Object, Scene, caption, sample_scene, scene_rng
from unbox.shapes.detector import Reading
from unbox.shapes.where import place_mask, read_mask

#: RIEBench's kinds that Shapes has -> the factor that changes.
KINDS = {
    "change object": "shape",
    "add object": "relation",
    "delete object": "relation",
    "change colour": "colour",
    "change texture": "texture",
    "change size": "size",
    "change position": "position",
    "change background": "background",
    "change light": "light",
}
#: Those that change how many objects there are.
COUNTING = ("add object", "delete object")


@dataclass(frozen=True)
class ScenePair:
    """What is to be edited and what the edit should make of it."""

    kind: str
    original: Scene
    edited: Scene
    original_prompt: str
    edited_prompt: str
    seed: int

    @property
    def target(self) -> tuple[str, str]:
        """The factor that changes and its value afterwards."""
        factor = KINDS[self.kind]
        return factor, self.edited.factors()[factor]

    @property
    def masks(self) -> tuple[Mask | None, Mask | None]:
        """Masks of what changes, in the original and in the edited image, as RIEBench takes them: `add` uses
        the edited image's for both, `delete` the original's; the light is everywhere."""
        if self.kind in COUNTING:
            both = self.edited if self.kind == "add object" else self.original
            return (place_mask("object", both, 1),) * 2
        return read_mask(KINDS[self.kind], self.original), read_mask(KINDS[self.kind], self.edited)

    def succeeded(self, reading: Reading) -> bool:
        """Does the detector's reading say what the edit should make?"""
        if self.kind in COUNTING:
            return reading["objects"] == len(self.edited.objects)
        factor, value = self.target
        return factors_of(reading)[factor] == value

    def harm(self, before: Reading, after: Reading) -> float:
        """Share of the other factors whose reading changed; a second object may move the first."""
        changing = {self.target[0], "position"} if self.kind in COUNTING else {self.target[0]}
        first, then = factors_of(before), factors_of(after)
        return float(np.mean([first[name] != then[name] for name in FACTORS if name not in changing]))


def changing(factor: str) -> str:
    """The kind that changes a factor."""
    return next(kind for kind, of in KINDS.items() if of == factor and kind not in COUNTING)


def scene_pairs(kind: str, count: int, seed: int = 0) -> list[ScenePair]:
    """`count` pairs of a kind, of held-out looks and wordings; the i-th depends on (kind, seed, i) alone."""
    found = []
    for index in range(count):
        rng = scene_rng(seed + 7919 * list(KINDS).index(kind), index, "heldout")
        original, edited = _scenes(kind, rng)
        wording = int(rng.integers(2**32))
        texts = [
            caption(scene, np.random.default_rng(wording), "heldout", full=True)[0]
            for scene in (original, edited)
        ]
        found.append(ScenePair(kind, original, edited, texts[0], texts[1], int(rng.integers(2**31))))
    return found


def _scenes(kind: str, rng: np.random.Generator) -> tuple[Scene, Scene]:
    scene = sample_scene(rng, "heldout", pairs=0.0)
    if kind not in COUNTING:
        factor = KINDS[kind]
        others = [v for v in FACTORS[factor] if v != scene.factors()[factor]]
        return scene, scene.with_factor(factor, str(rng.choice(others)))
    second = sample_scene(rng, "heldout", pairs=0.0).objects[0]
    first: Object = replace(scene.objects[0], position="left")
    alone = replace(scene, objects=(first,))
    both = replace(scene, objects=(first, replace(second, position="right")), relation="left of")
    return (alone, both) if kind == "add object" else (both, alone)


def recorded(subject: ModelUnderTest, pairs: Sequence[ScenePair], blocks: Sequence[str]) -> list[UpdatePair]:
    """Run both prompts of each pair from its seed and record their updates."""
    texts = [p.edited_prompt for p in pairs] + [p.original_prompt for p in pairs]
    seeds = [p.seed for p in pairs] * 2
    with record(subject.model, blocks) as tape:
        subject.model.generate(texts, seeds=seeds, output="latent", **subject.sampling)
    updates = {block: tape.read(block, "update", "cond").float().numpy() for block in blocks}
    runs = [{block: update[i] for block, update in updates.items()} for i in range(len(texts))]
    each = zip(runs[: len(pairs)], runs[len(pairs) :], pairs, strict=True)
    return [UpdatePair(donor, original, *pair.masks[::-1]) for donor, original, pair in each]


def patch(pair: UpdatePair, block: str) -> Edits:
    """The donor's update in place of the original's, at every step and position: what a block can carry."""
    difference = pair.donor[block] - pair.original[block]
    basis = neurons(block, rearrange(difference, "step y x d -> (step y x) d"))
    every = Feature(block, tuple(range(difference.shape[-1])), sae=basis)
    return Edits.of(every.add(1.0, unit="absolute", where=rearrange(difference, "step y x d -> d step y x")))
