"""`unbox bench shapes`: meaning, causation, ownership and transport, every method on the same images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from activation_store.files import write_json
from unbox.capture import collect
from unbox.edits import Edits
from unbox.edits.transport import Pair, steer, transport
from unbox.experiments.bench import causing
from unbox.experiments.bench.kept import Kept
from unbox.experiments.bench.methods import METHODS, dictionaries, directions
from unbox.experiments.bench.pairs import KINDS, ScenePair, patch, recorded, scene_pairs
from unbox.experiments.bench.probing import VALUES, Pooled, probe
from unbox.experiments.effects import Cases, draw_cases, measure
from unbox.experiments.factors import Value, scenes_of
from unbox.experiments.run import random_control
from unbox.experiments.statistics import bootstrap
from unbox.shapes import Scene, prompts
from unbox.words import UnboxError

#: A value is drawn reliably if the detector reads it in this share of the unedited images that ask for it.
RELIABLE = 0.8


@dataclass(frozen=True)
class Settings:
    """What the benchmark does. Everything here is part of the results' names."""

    steps: int = 4
    prompts: int = 400
    """Held-out captions whose updates are probed."""
    blocks_tried: int = 2
    """Blocks tried for each value: those that the value moves most."""
    sizes: tuple[int, ...] = (1, 8)
    """Sizes of feature sets tried."""
    strengths: tuple[float, ...] = causing.STRENGTHS
    trial_cases: int = 8
    """Images on which block, size and strength are chosen, for each value and method."""
    test_cases: int = 32
    """Other images on which success is measured."""
    pairs: int = 12
    """Pairs of captions of each kind of edit."""
    transported: tuple[int, ...] = (8, 32, 128)
    """Numbers of features that transport carries."""
    moved: tuple[float, ...] = (1.0, 2.0)
    """Strengths of transport."""
    values: tuple[Value, ...] = VALUES
    batch_size: int = 16
    seed: int = 0

    @property
    def sampling(self) -> dict[str, Any]:
        return {"steps": self.steps, "batch_size": self.batch_size}


@dataclass
class Bench:
    """The parts that every stage shares."""

    model: Any
    detector: Any
    saes: Mapping[str, Any]
    settings: Settings
    out: Path
    kept: Kept
    progress: bool = True
    held: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Block -> its dictionaries."""
    pooled: dict[str, Pooled] = field(default_factory=dict)

    def bar(self, items: Sequence[Any], what: str) -> Iterator[Any]:
        """Iterate with a progress bar."""
        return iter(tqdm(items, desc=what, disable=not self.progress))


def bench_shapes(
    model: Any,
    saes: Mapping[str, Any],
    out: str | Path,
    settings: Settings | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Run the benchmark (what is missing of it) and write results, tables and a page into `out`.

    Returns {"meaning": rows, "causation": rows, "removal": rows, "ownership": rows, "transport": rows,
    "reliable": {"factor=value": share}}. Raises UnboxError without SAEs.
    """
    from unbox.experiments.bench.report import write_bench
    from unbox.experiments.run import sae_digest
    from unbox.shapes.detector import Detector

    settings, out = settings or Settings(), Path(out)
    if not saes:
        raise UnboxError("there are no SAEs to test; train some with `unbox train`")
    saes = {sae.block: sae for sae in saes.values()}
    context = {
        "model": model.fingerprint,
        "saes": {block: sae_digest(sae) for block, sae in saes.items()},
        "settings": asdict(settings),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "manifest.json", context)
    bench = Bench(model, Detector.load(), saes, settings, out, Kept(out / "kept", context), progress)
    scenes, store = _held_out(bench)
    for block, sae in saes.items():
        bench.held[block] = dictionaries(sae, store[block].sample(4096, settings.seed), settings.seed)
    results: dict[str, Any] = {"meaning": _meaning(bench, store, scenes)}
    for block in bench.bar(list(saes), "contrasts"):
        bench.pooled[block] = Pooled(bench.held[block], store[block], scenes)
    trials, tests = _cases(bench)
    results["reliable"] = _reliable(tests)
    results["causation"], results["removal"] = _causation(bench, trials, tests)
    results["ownership"], results["transport"] = _transport(bench)
    write_json(out / "results.json", results)
    write_bench(results, context, out)
    return results


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


def _meaning(bench: Bench, store: Any, scenes: list[Scene]) -> list[dict[str, Any]]:
    rows = []
    for block in bench.bar(list(bench.saes), "meaning"):
        for name, dictionary in bench.held[block].items():
            found = bench.kept.get(["meaning", block, name], probe, dictionary, store[block], scenes)
            rows += [{"block": block, "method": name, **row} for row in found]
    return rows


def _cases(bench: Bench) -> tuple[Cases, Cases]:
    """Trial and test images, unedited: enough that every value is missing in as many as are asked for."""
    settings = bench.settings
    counts = (3 * settings.trial_cases, 3 * settings.test_cases)
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
    for value in bench.bar([v for v in bench.settings.values if v[0] != "relation"], "causation"):
        blocks = _movers(bench, value)
        for method in METHODS:
            key = ["causation", list(value), method]
            row = bench.kept.get(key, _one_method, bench, method, value, blocks, trials, tests)
            added.append({"factor": value[0], "value": value[1], "method": method, **row})
        for method in ("sae", "random"):
            key = ["removal", list(value), method]
            row = bench.kept.get(key, _one_removal, bench, method, value, blocks, tests)
            if row is not None:
                removed.append({"factor": value[0], "value": value[1], "method": method, **row})
    return added, removed


def _movers(bench: Bench, value: Value) -> list[str]:
    """The blocks whose updates the value moves most."""
    moved = {b: p.separation(value, float(bench.saes[b].update_std)) for b, p in bench.pooled.items()}
    return sorted(moved, key=lambda block: -moved[block])[: bench.settings.blocks_tried]


def _direction(bench: Bench, method: str, value: Value, block: str, size: int) -> Any:
    pooled, held = bench.pooled[block], bench.held[block]
    contrasts = {name: pooled.contrast(name, value) for name in held}
    return directions(held, contrasts, pooled.contrast("update", value), size, bench.settings.seed)[method]


def _one_method(
    bench: Bench, method: str, value: Value, blocks: list[str], trials: Cases, tests: Cases
) -> dict[str, Any]:
    """Choose block, size and strength on trial cases; give the whole curve on test cases."""
    settings = bench.settings
    sizes = (1,) if method == "steering" else settings.sizes
    options = [(block, size) for block in blocks for size in sizes]
    few = trials.lacking(value, settings.trial_cases)

    def trace(cases: Cases, block: str, size: int) -> list[dict[str, float]]:
        direction = _direction(bench, method, value, block, size)
        return causing.curve(
            bench.model, bench.detector, cases, direction, value, settings.strengths, **settings.sampling
        )

    tried = [(option, causing.best(trace(few, *option))) for option in options]
    fine = [causing.best([point for _, point in tried])]
    (block, size), point = next(pair for pair in tried if pair[1] is fine[0])
    points = trace(tests.lacking(value, settings.test_cases), block, size)
    chosen = next(p for p in points if p["strength"] == point["strength"])
    name = _direction(bench, method, value, block, size).name
    return {
        "block": block,
        "size": size,
        "name": name,
        **chosen,
        "area": causing.area_under(points),
        "curve": points,
    }


def _one_removal(
    bench: Bench, method: str, value: Value, blocks: list[str], tests: Cases
) -> dict[str, Any] | None:
    """Ablate the largest set of a value in its first block, on images that show the value."""
    cases = tests.having(value, bench.settings.test_cases)
    if not len(cases):
        return None
    direction = _direction(bench, method, value, blocks[0], max(bench.settings.sizes))
    recipe = causing.removing(direction, value[0])
    outcome = measure(bench.model, bench.detector, cases, recipe, value, gone=True, **bench.settings.sampling)
    return {"block": blocks[0], "name": direction.name, **causing.figures(outcome)}


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


def _ways(bench: Bench) -> dict[str, Callable[[Pair], Edits]]:
    """Methods of transport by name: features, random features with the same maps, neurons, steering."""
    settings, blocks = bench.settings, tuple(bench.saes)
    neurons = {block: held["neurons"] for block, held in bench.held.items()}
    ways: dict[str, Callable[[Pair], Edits]] = {}
    for strength in settings.moved:
        for count in settings.transported:
            told = f"{count} features x {strength:g}"
            carry = partial(transport, count=count, strength=strength)
            ways[f"sae, {told}"] = partial(carry, saes=bench.saes)
            ways[f"random, {told}"] = partial(_random, carry, bench)
            ways[f"neurons, {told}"] = partial(carry, saes=neurons)
        ways[f"steering x {strength / 2:g}"] = partial(steer, blocks=blocks, strength=strength / 2)
    return ways


def _random(carry: Callable[..., Edits], bench: Bench, pair: Pair) -> Edits:
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
