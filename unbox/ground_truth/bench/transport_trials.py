"""Edits by transport between two captions: which block owns what, and which method carries it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from unbox.edit import Edits
from unbox.edits.controls import CONTROL_RULE, controlled
from unbox.edits.transport import UpdatePair, steer, transport
from unbox.ground_truth.bench.bench_inputs import BenchInputs
from unbox.ground_truth.bench.bench_rows import BenchResults, BenchRow
from unbox.ground_truth.bench.scene_pairs import KINDS, patch, recorded, scene_pairs
from unbox.ground_truth.bench.trade_off import rates
from unbox.json_types import JSON

Methods = Mapping[str, Callable[[UpdatePair], Edits]]


def transport_trials(bench: BenchInputs, kinds: Sequence[str] = tuple(KINDS)) -> BenchResults:
    """Every way to make some kinds of edits: `ownership` and `transport`."""
    found: BenchResults = {"ownership": [], "transport": []}
    methods, blocks = transport_methods(bench), list(bench.saes)
    random = {name: made for name, made in methods.items() if name.startswith("random")}
    others = {name: made for name, made in methods.items() if name not in random}
    for kind in bench.bar(kinds, "pairs"):
        rows = bench.results.get(["pairs", kind], _one_kind, bench, kind, blocks, others)
        controls = bench.results.get(["pairs", kind, CONTROL_RULE], _one_kind, bench, kind, [], random)
        found["ownership"] += rows["ownership"]
        # A version before kept controls of another rule with the rest: these take their places.
        named = {row["method"]: row for row in [*rows["transport"], *controls["transport"]]}
        found["transport"] += [named[name] for name in methods]
    return found


def pair_keys(kind: str) -> list[JSON]:
    """The names of the results of a kind."""
    return [["pairs", kind], ["pairs", kind, CONTROL_RULE]]


def _one_kind(bench: BenchInputs, kind: str, blocks: list[str], methods: Methods) -> BenchResults:
    """Some ways to make a kind of edit, on the same pairs."""
    pairs = scene_pairs(kind, bench.settings.pairs, bench.settings.seed)
    updates = recorded(bench.subject, pairs, list(bench.saes))
    texts, seeds = [p.original_prompt for p in pairs], [p.seed for p in pairs]
    before = bench.subject.detector.read(bench.subject.draw(texts, seeds))

    def judged(make_edits: Callable[[UpdatePair], Edits]) -> BenchRow:
        edits = [make_edits(pair) for pair in updates]
        images = bench.subject.draw(texts, seeds, edits)
        after = bench.subject.detector.read(images)
        success = [p.succeeded(a) for p, a in zip(pairs, after, strict=True)]
        harm = [p.harm(b, a) for p, b, a in zip(pairs, before, after, strict=True)]
        return rates(np.array(success), np.array(harm), bench.subject.artifact_rule.artifacts(images))

    owned = {block: judged(partial(patch, block=block)) for block in blocks}
    moved = {name: judged(make_edits) for name, make_edits in methods.items()}
    return {
        "ownership": [{"kind": kind, "block": block, **row} for block, row in owned.items()],
        "transport": [{"kind": kind, "method": name, **row} for name, row in moved.items()],
    }


def transport_methods(bench: BenchInputs) -> Methods:
    """Methods by name: features, random features with the same maps, neurons, steering."""
    settings, blocks = bench.settings, tuple(bench.saes)
    neurons = {block: named["neurons"] for block, named in bench.dictionaries.items()}
    methods: dict[str, Callable[[UpdatePair], Edits]] = {}
    for strength in settings.moved:
        for count in settings.transported:
            size = f"{count} features x {strength:g}"
            carry = partial(transport, saes=bench.saes, count=count, strength=strength)
            methods[f"sae, {size}"] = carry
            methods[f"random, {size}"] = controlled(carry, settings.seed)
            methods[f"neurons, {size}"] = partial(carry, saes=neurons)
        methods[f"steering x {strength / 2:g}"] = partial(steer, blocks=blocks, strength=strength / 2)
    return methods
