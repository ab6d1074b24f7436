"""`unbox bench shapes`: meaning, causation, ownership and transport, every method on the same images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from activation_store.files import write_json
from unbox.capture import collect
from unbox.edit import Edits
from unbox.edits import random_control
from unbox.edits.transport import UpdatePair, steer, transport
from unbox.errors import UnboxError
from unbox.ground_truth.bench import causation
from unbox.ground_truth.bench.bench_settings import BenchSettings
from unbox.ground_truth.bench.mean_maps import MAPPED, MeanMaps
from unbox.ground_truth.bench.methods import METHODS, SPREADS, Joint, carriers, change, dictionaries
from unbox.ground_truth.bench.probing import probe
from unbox.ground_truth.bench.scene_pairs import KINDS, ScenePair, patch, recorded, scene_pairs
from unbox.ground_truth.effects import Cases, Outcome, draw_cases, measure
from unbox.ground_truth.factor_scores import Value, scenes_of
from unbox.result_cache import ResultCache
from unbox.shapes import Scene, prompts
from unbox.statistics import bootstrap

#: A value is drawn reliably if the detector reads it in this share of the unedited images that ask for it.
RELIABLE = 0.8


@dataclass
class Bench:
    """The parts that every stage shares."""

    model: Any
    detector: Any
    saes: Mapping[str, Any]
    settings: BenchSettings
    out: Path
    kept: ResultCache
    progress: bool = True
    held: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Block -> its dictionaries."""
    moved: dict[str, dict[Value, float]] = field(default_factory=dict)
    """Block -> how far each value moves its update, in deviations of a position's update."""
    maps: Callable[[str], MeanMaps] = field(init=False)
    """Mean maps of a block's dictionaries by factor value, made when first asked for."""

    def bar(self, items: Sequence[Any], what: str) -> Iterator[Any]:
        """Iterate with a progress bar."""
        return iter(tqdm(items, desc=what, disable=not self.progress))


def bench_shapes(
    model: Any,
    saes: Mapping[str, Any],
    out: str | Path,
    settings: BenchSettings | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Run the benchmark (what is missing of it) and write results, tables and a page into `out`.

    Returns {"meaning": rows, "causation": rows, "removal": rows, "ownership": rows, "transport": rows,
    "reliable": {"factor=value": share}}. Raises UnboxError without SAEs.
    """
    from unbox.ground_truth.bench.report import write_bench
    from unbox.shapes.detector import Detector

    settings, out = settings or BenchSettings(), Path(out)
    if not saes:
        raise UnboxError("there are no SAEs to test; train some with `unbox train`")
    saes = {sae.block: sae for sae in saes.values()}
    context = {
        "model": model.fingerprint,
        "saes": {block: sae.digest for block, sae in saes.items()},
        "settings": asdict(settings),
    }
    # What is asked does not change an answer: runs over some of the values fill the folder of a run over all.
    shared = {**context, "settings": {k: v for k, v in asdict(settings).items() if k != "values"}}
    probed = {**context, "settings": {k: asdict(settings)[k] for k in ("steps", "prompts", "seed")}}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "manifest.json", context)
    bench = Bench(model, Detector.load(), saes, settings, out, ResultCache(out / "kept", shared), progress)
    scenes, store = _held_out(bench)
    for block, sae in saes.items():
        bench.held[block] = dictionaries(sae, store[block].sample(4096, settings.seed), settings.seed)
    results: dict[str, Any] = {"meaning": _meaning(bench, ResultCache(out / "kept", probed), store, scenes)}
    for block, sae in bench.bar(list(saes.items()), "movers"):
        neurons = MeanMaps({"neurons": bench.held[block]["neurons"]}, Read.of(store[block]), scenes)
        bench.moved[block] = {value: neurons.moved(value) / float(sae.update_std) for value in MAPPED}
    bench.maps = cache(lambda block: MeanMaps(bench.held[block], Read.of(store[block]), scenes))
    trials, tests = _cases(bench)
    results["reliable"] = _reliable(tests)
    results["causation"], results["removal"] = _causation(bench, trials, tests)
    results["ownership"], results["transport"] = _transport(bench)
    write_json(out / "results.json", results)
    write_bench(results, context, out)
    return results


@dataclass(frozen=True)
class Read:
    """A block's rows in memory: they are read a dozen times, and a store opens a shard for each image."""

    updates: np.ndarray

    @classmethod
    def of(cls, rows: Any) -> "Read":
        """All images of a store's rows."""
        return cls(np.stack([rows.read(i) for i in range(rows.shape[0])]))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.updates.shape

    def read(self, image: int) -> np.ndarray:
        """(step, branch, y, x, d) of an image."""
        return self.updates[image]


def _held_out(bench: Bench) -> tuple[list[Scene], Any]:
    """Updates of held-out captions, in a store, with their scenes."""
    drawn = prompts(bench.settings.prompts, seed=bench.settings.seed + 101, split="heldout", full=True)
    store = collect(
        bench.model,
        drawn,
        bench.out / "store",
        blocks=tuple(bench.saes),
        steps=bench.settings.steps,
        seed=bench.settings.seed,
        batch_size=bench.settings.batch_size,
        progress=bench.progress,
    )
    return scenes_of(store), store


def _meaning(bench: Bench, kept: ResultCache, store: Any, scenes: list[Scene]) -> list[dict[str, Any]]:
    rows = []
    for block in bench.bar(list(bench.saes), "meaning"):
        read = Read.of(store[block])
        for name, dictionary in bench.held[block].items():
            found = kept.get(["meaning", block, name], probe, dictionary, read, scenes)
            rows += [{"block": block, "method": name, **row} for row in found]
    return rows


def _cases(bench: Bench) -> tuple[Cases, Cases]:
    """Trial and test images, unedited: enough that every value is missing in as many as are asked for."""
    settings = bench.settings
    counts = (6 * settings.trial_cases, 6 * settings.test_cases)
    return tuple(  # type: ignore[return-value]
        draw_cases(bench.model, bench.detector, count, seed=settings.seed + 201 + i, **settings.sampling)
        for i, count in enumerate(counts)
    )


def _reliable(cases: Cases) -> dict[str, float]:
    """Share of unedited images that show what their caption asks for, by value."""
    asked: dict[str, list[bool]] = {}
    for scene, reading in zip(cases.scenes, cases.readings, strict=True):
        for factor, value in scene.factors().items():
            asked.setdefault(f"{factor}={value}", []).append(reading[factor] == value)
    return {name: float(np.mean(held)) for name, held in sorted(asked.items())}


def _causation(
    bench: Bench, trials: Cases, tests: Cases
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    added, removed = [], []
    for value in bench.bar([v for v in bench.settings.values if v in MAPPED], "causation"):
        blocks, about = _movers(bench, value), {"factor": value[0], "value": value[1]}
        for method in METHODS[:-1]:
            key = ["causation", list(value), method]
            row = bench.kept.get(key, _one_method, bench, method, value, blocks, trials, tests)
            added.append({**about, "method": method, **row})
        best = added[1 - len(METHODS)]  # the SAE's
        row = bench.kept.get(["control", list(value)], _control, bench, value, best, tests)
        added.append({**about, "method": "random", **row})
        for row in bench.kept.get(["removal", list(value)], _removal, bench, value, blocks, trials, tests):
            removed.append({**about, **row})
    return added, removed


def _movers(bench: Bench, value: Value) -> list[list[str]]:
    """Sets of blocks to edit: those whose updates the value moves most, one by one and together."""
    order = sorted(bench.moved, key=lambda block: -bench.moved[block][value])
    together = sorted({min(count, len(order)) for count in bench.settings.together} - {1})
    return [[block] for block in order[: bench.settings.blocks_tried]] + [order[:n] for n in together]


def _change(bench: Bench, method: str, value: Value, option: Mapping[str, Any]) -> Joint:
    size, spread = option["size"], option["spread"]
    parts = (change(bench.held[b], bench.maps(b), method, value, size, spread) for b in option["blocks"])
    return Joint(tuple(parts))


def _trace(
    bench: Bench, cases: Cases, method: str, value: Value, option: Mapping[str, Any]
) -> list[dict[str, float]]:
    """The trade-off curve of one edit on some cases."""
    settings, edits = bench.settings, _change(bench, method, value, option).edits
    return causation.curve(
        bench.model, bench.detector, cases, edits, value, settings.strengths, **settings.sampling
    )


def _one_method(
    bench: Bench, method: str, value: Value, blocks: list[list[str]], trials: Cases, tests: Cases
) -> dict[str, Any]:
    """Choose blocks, then spread, then size, each with its best strength, on trial cases; the whole curve of
    what was chosen on test cases."""
    settings = bench.settings
    few = causation.lacking(trials, value, settings.trial_cases)
    sizes = [size for size in settings.sizes if method != "steering"]
    first = {"blocks": blocks[0], "spread": SPREADS[0], "size": max(settings.sizes)}
    points: list[tuple[dict[str, Any], Mapping[str, float]]] = []
    for name, choices in {"blocks": blocks, "spread": SPREADS[1:], "size": sorted(sizes)[:-1]}.items():
        base = causation.best_of(points)[0] if points else first
        for choice in choices:
            option = {**base, name: choice}
            points += [(option, p) for p in _trace(bench, few, method, value, option)]
    option, point = causation.best_of(points)
    curve = _trace(bench, causation.lacking(tests, value, settings.test_cases), method, value, option)
    chosen = next(p for p in curve if p["strength"] == point["strength"])
    made = _change(bench, method, value, option)
    told = {**option, "name": made.name, "features": made.features}
    return {**told, **chosen, "area": causation.area_under(curve), "curve": curve}


def _control(bench: Bench, value: Value, best: Mapping[str, Any], tests: Cases) -> dict[str, Any]:
    """The SAE's chosen edit on random features: the same blocks, maps, size and norm, at every strength."""
    settings, made = bench.settings, _change(bench, "sae", value, best)
    cases = causation.lacking(tests, value, settings.test_cases)
    curve = []
    for strength in settings.strengths:
        outcomes = [
            measure(
                bench.model,
                bench.detector,
                cases,
                partial(_controlled, made.edits, draw, strength=strength),
                value,
                **settings.sampling,
            )
            for draw in range(settings.draws if strength == best["strength"] else 1)
        ]
        curve.append({"strength": strength, **causation.figures(*outcomes)})
    chosen = next(p for p in curve if p["strength"] == best["strength"])
    told = {name: best[name] for name in ("blocks", "spread", "size")} | {"name": "random features"}
    return {**told, **chosen, "area": causation.area_under(curve), "curve": curve}


def _controlled(recipe: Callable[..., Edits], draw: int, scene: Scene, **options: float) -> Edits:
    return random_control(recipe(scene, **options), draw)


def _removal(
    bench: Bench, value: Value, blocks: list[list[str]], trials: Cases, tests: Cases
) -> list[dict[str, Any]]:
    """Ablate the features that a value has most of, and as many random ones; blocks and size by trial."""
    settings = bench.settings
    few, cases = trials.having(value, settings.trial_cases), tests.having(value, settings.test_cases)
    if not len(few) or not len(cases):
        return []

    def gone(of: Cases, features: Mapping[str, Sequence[int]], draw: int | None = None) -> Outcome:
        recipe = causation.ablating(bench.saes, features, value[0])
        if draw is not None:
            recipe = partial(_controlled, recipe, draw)
        return measure(bench.model, bench.detector, of, recipe, value, gone=True, **settings.sampling)

    tried = []
    for some, size in product(blocks, settings.sizes):
        carried = {b: carriers(bench.held[b], bench.maps(b), value, size) for b in some}
        if all(carried.values()):
            tried.append(({"size": size, "features": carried}, causation.figures(gone(few, carried))))
    if not tried:
        return []
    chosen, _ = causation.best_of(tried)
    controls = [gone(cases, chosen["features"], draw) for draw in range(settings.draws)]
    about = {"blocks": list(chosen["features"]), "size": chosen["size"]}
    return [
        {"method": "sae", **about, **causation.figures(gone(cases, chosen["features"]))},
        {"method": "random", **about, **causation.figures(*controls)},
    ]


def _transport(bench: Bench) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    owned, moved = [], []
    for kind in bench.bar(list(KINDS), "pairs"):
        made = bench.kept.get(["pairs", kind], _one_kind, bench, kind)
        owned += made["ownership"]
        moved += made["transport"]
    return owned, moved


def _one_kind(bench: Bench, kind: str) -> dict[str, Any]:
    """Every way to make a kind of edit, on the same pairs."""
    settings = bench.settings
    pairs = scene_pairs(kind, settings.pairs, settings.seed)
    held = recorded(bench.model, pairs, list(bench.saes), **settings.sampling)
    before = _read(bench, pairs, [None] * len(pairs))
    result: dict[str, Any] = {"ownership": [], "transport": []}
    for block in bench.saes:
        edits = [patch(pair, block) for pair in held]
        result["ownership"].append({"kind": kind, "block": block, **_judged(bench, pairs, before, edits)})
    for name, make in _ways(bench).items():
        edits = [make(pair) for pair in held]
        result["transport"].append({"kind": kind, "method": name, **_judged(bench, pairs, before, edits)})
    return result


def _ways(bench: Bench) -> dict[str, Callable[[UpdatePair], Edits]]:
    """Methods of transport by name: features, random features with the same maps, neurons, steering."""
    settings, blocks = bench.settings, tuple(bench.saes)
    neurons = {block: held["neurons"] for block, held in bench.held.items()}
    ways: dict[str, Callable[[UpdatePair], Edits]] = {}
    for strength in settings.moved:
        for count in settings.transported:
            told = f"{count} features x {strength:g}"
            carry = partial(transport, count=count, strength=strength)
            ways[f"sae, {told}"] = partial(carry, saes=bench.saes)
            ways[f"random, {told}"] = partial(_random, carry, bench)
            ways[f"neurons, {told}"] = partial(carry, saes=neurons)
        ways[f"steering x {strength / 2:g}"] = partial(steer, blocks=blocks, strength=strength / 2)
    return ways


def _random(carry: Callable[..., Edits], bench: Bench, pair: UpdatePair) -> Edits:
    """The same maps on random features."""
    return random_control(carry(pair, saes=bench.saes), bench.settings.seed)


def _read(bench: Bench, pairs: Sequence[ScenePair], edits: Sequence[Edits | None]) -> list[dict[str, Any]]:
    images = bench.model.generate(
        [p.original_prompt for p in pairs],
        seeds=[p.seed for p in pairs],
        edits=list(edits),
        **bench.settings.sampling,
    )
    return bench.detector.read(images)


def _judged(
    bench: Bench, pairs: Sequence[ScenePair], before: list[dict[str, Any]], edits: Sequence[Edits]
) -> dict[str, float]:
    after = _read(bench, pairs, edits)
    success = bootstrap(np.array([p.succeeded(a) for p, a in zip(pairs, after, strict=True)]))
    harm = bootstrap(np.array([p.harm(b, a) for p, b, a in zip(pairs, before, after, strict=True)]))
    return {
        "success": success.mean,
        "success_low": success.low,
        "success_high": success.high,
        "collateral": harm.mean,
        "collateral_low": harm.low,
        "collateral_high": harm.high,
        "cases": len(pairs),
    }
