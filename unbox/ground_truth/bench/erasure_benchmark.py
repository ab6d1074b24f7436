"""`unbox bench erasure`: what is gone, what is kept, and what is spoilt, for every value of every factor.

Of pictures that show a value and as many that show another of its factor: **UA**, the share of the former in
which it is gone; **IRA**, of the latter in which their own value stays; **CRA**, the share of all other
factors' readings that stay; and the share of **artifacts** by the second critic. The detector reads the first
three.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from activation_store import Store
from activation_store.files import write_text
from unbox.capture import collect
from unbox.edits.controls import CONTROL_RULE
from unbox.experiments.result_names import ResultNames
from unbox.experiments.tables import markdown_table, write_table
from unbox.ground_truth.artifacts import FactorCritic, unedited_count
from unbox.ground_truth.bench.bench_folder import claimed, tested
from unbox.ground_truth.bench.bench_inputs import BlockRows
from unbox.ground_truth.bench.erasure_rules import RULES, Erasure, FactorRecords, controls
from unbox.ground_truth.bench.erasure_settings import ErasureSettings
from unbox.ground_truth.bench.learned_change import LearnedChanges
from unbox.ground_truth.bench.measurements import LoadModel
from unbox.ground_truth.effects import Cases, CaseSampling, ModelUnderTest, readings
from unbox.ground_truth.factor_scores import Value, scenes_of
from unbox.json_types import JSON
from unbox.models import Model
from unbox.processes import in_processes
from unbox.result_cache import ResultCache
from unbox.run_folder import run_folder
from unbox.sae import SAE
from unbox.shapes import FACTORS, prompts
from unbox.statistics import bootstrap

Row = dict[str, JSON]
#: What is measured, in the order of the table.
MEASURES = ("UA", "IRA", "CRA", "artifacts")
#: Of a row, the options that its own was chosen among.
TRIALS = "trials"

#: Settings that decide what the folder's store holds.
STORED = ("steps", "captions", "seed")


@dataclass(frozen=True, eq=False)
class ErasureBench:
    """What all measurements share."""

    subject: ModelUnderTest
    settings: ErasureSettings
    records: Callable[[str, str], FactorRecords | None]
    """Of a block and a factor."""
    blocks: Sequence[str]
    trials: Cases
    tests: Cases

    def draw(self, cases: Cases, erasure: Erasure) -> list[Image.Image]:
        """The cases' pictures without the value."""
        return self.subject.model.generate(
            [prompt.text for prompt in cases.prompts],
            seeds=list(cases.seeds),
            edits=erasure.edits if len(erasure.edits) else None,
            negative_prompt=erasure.negative_prompt,
            guidance=erasure.guidance,
            steps=self.settings.steps,
            batch_size=self.settings.batch_size,
        )

    def figures(self, cases: Cases, value: Value, *erasures: Erasure) -> Row:
        """Each measure with its interval, of several draws the mean of each case first."""
        factor, wanted = value
        had = np.array([reading[factor] == wanted for reading in cases.readings])
        others, found = [name for name in FACTORS if name != factor], []
        for erasure in erasures:
            images = self.draw(cases, erasure)
            after = readings(self.subject.detector, images)
            own = np.array([b[factor] == a[factor] for b, a in zip(cases.readings, after, strict=True)])
            kept = [
                np.mean([b[n] == a[n] for n in others]) for b, a in zip(cases.readings, after, strict=True)
            ]
            gone = np.where(had, ~own, np.nan)
            found.append(
                [gone, np.where(had, np.nan, own), kept, self.subject.artifact_rule.artifacts(images)]
            )
        columns = np.mean(np.asarray(found, float), 0)
        row: Row = {"cases": len(cases)}
        for name, column in zip(MEASURES, columns, strict=True):
            row |= bootstrap(column).columns(name)
        return row

    def cases(self, among: Cases, value: Value, limit: int) -> Cases:
        """`limit` pictures that show the value, and as many that show another of its factor."""
        having, lacking = among.having(value, limit), among.lacking(value, limit)
        if not len(having) or not len(lacking):
            return Cases((), (), (), ())
        columns = ("prompts", "seeds", "images", "readings")
        return Cases(*(getattr(having, name) + getattr(lacking, name) for name in columns))

    def measured(self, method: str, value: Value) -> list[Row]:
        """The option of a method that does best on trial pictures, measured on others; none where it
        cannot."""
        few = self.cases(self.trials, value, self.settings.trial_cases)
        cases = self.cases(self.tests, value, self.settings.test_cases)
        options = self.options(method, value)
        if not len(few) or not len(cases) or not options:
            return []
        tried = [(option, self.figures(few, value, option)) for option in options]
        best, _ = max(tried, key=lambda pair: _score(pair[1]))
        trials = [{"option": each.option, **{n: row[n] for n in ("cases", *MEASURES)}} for each, row in tried]
        return [{"option": best.option, **self.figures(cases, value, best), TRIALS: trials}]

    def control(self, value: Value, option: str) -> list[Row]:
        """SAeUron's chosen edits on random features."""
        chosen = next(each for each in self.options("saeuron", value) if each.option == option)
        cases = self.cases(self.tests, value, self.settings.test_cases)
        random = controls(chosen, self.settings.draws)
        return [{"option": option, **self.figures(cases, value, *random)}]

    def options(self, method: str, value: Value) -> list[Erasure]:
        """What is tried: those that change something."""
        there = [of for block in self.blocks if (of := self.records(block, value[0])) is not None]
        fitting = [of for of in there if value[1] in of.codes.means and len(of.codes.means) > 1]
        fitting.sort(key=lambda of: -of.moved(value[1]))
        tried = RULES[method](fitting[: self.settings.blocks_tried], value, self.settings)
        return [each for each in tried if len(each.edits) or each.negative_prompt]


def _score(row: Row) -> float:
    return float(np.mean([float(str(row[name])) for name in MEASURES[:3]]))


def bench_erasure(
    model: Model,
    saes: Mapping[str, SAE],
    out: str | Path,
    settings: ErasureSettings | None = None,
    progress: bool = True,
    critic: FactorCritic | None = None,
    processes: int = 1,
    load: LoadModel | None = None,
) -> list[Row]:
    """Run the benchmark (what is missing of it) and write `rows.csv`, `trials.csv` and `erasure.md` into
    `out`.

    A row is a value under a method: each measure with its 95 % interval over pictures, and `trials`, what was
    chosen among, each option's measures on trial pictures. `critic`: who says
    what is an artifact, another than the detector (None: the bundled one). `processes`: so many share what is
    missing, value by value; `load` gives the model to each, by its number, and must be picklable. Raises
    UnboxError without SAEs.
    """
    settings, out = settings or ErasureSettings(), Path(out)
    saes = tested(saes, processes, load)
    chosen: dict[str, JSON] = {**asdict(settings)}
    with run_folder(out, "bench erasure") as folder:
        results = claimed(folder, ResultNames.of(folder, model, saes), chosen, STORED)
        if processes > 1 and load is not None:
            _collect(model, tuple(saes), out, settings, progress)
            todo = [v for v in settings.values if not all(map(results.has, _keys(settings, v)))]
            threads = max(1, torch.get_num_threads() // processes)
            start = ErasureProcess(load, pickle.dumps((saes, critic)), settings, out, results, threads)
            work = in_processes(start, todo, processes)
            list(tqdm(work, total=len(todo), desc="in processes", disable=not progress))
        bench = _prepared(model, saes, out, settings, critic, progress)
        rows = _rows(bench, results, progress)
        write_table(out / "rows.csv", [{k: v for k, v in row.items() if k != TRIALS} for row in rows])
        if trials := trial_rows(rows):
            write_table(out / "trials.csv", trials)
        write_text(out / "erasure.md", markdown(rows))
    return rows


@dataclass(frozen=True)
class ErasureProcess:
    """What a process needs in order to erase values; called with its number in it."""

    load: LoadModel
    given: bytes
    """SAEs and critic, pickled whole."""
    settings: ErasureSettings
    out: Path
    results: ResultCache
    threads: int

    def __call__(self, number: int) -> Callable[[Value], None]:
        torch.set_num_threads(self.threads)
        saes, critic = pickle.loads(self.given)
        bench = _from_store(self.load(number), saes, self.out, self.settings, critic)

        def erased(value: Value) -> None:
            _rows(replace(bench, settings=replace(self.settings, values=(value,))), self.results, False)

        return erased


def _collect(
    model: Model, blocks: Sequence[str], out: Path, settings: ErasureSettings, progress: bool
) -> None:
    """Collect the updates of held-out captions."""
    sampling: CaseSampling = {"steps": settings.steps, "batch_size": settings.batch_size}
    captions = prompts(settings.captions, settings.seed + 301, "heldout", True, 0.0)
    where, seed = out / "store", settings.seed
    collect(model, captions, where, blocks=tuple(blocks), seed=seed, progress=progress, **sampling)


def _prepared(
    model: Model,
    saes: Mapping[str, SAE],
    out: Path,
    settings: ErasureSettings,
    critic: FactorCritic | None,
    progress: bool,
) -> ErasureBench:
    """Collect the updates of held-out captions, and draw trial and test pictures, unedited."""
    _collect(model, tuple(saes), out, settings, progress)
    return _from_store(model, saes, out, settings, critic)


def _from_store(
    model: Model, saes: Mapping[str, SAE], out: Path, settings: ErasureSettings, critic: FactorCritic | None
) -> ErasureBench:
    """Read the updates that are collected, and draw trial and test pictures, unedited."""
    sampling: CaseSampling = {"steps": settings.steps, "batch_size": settings.batch_size}
    store, seed = Store.open(out / "store"), settings.seed
    subject = ModelUnderTest.read_by(model, sampling, unedited_count(settings.captions), critic)
    trials = subject.cases(6 * settings.trial_cases, seed + 401)
    tests = subject.cases(6 * settings.test_cases, seed + 402)
    rows = cache(lambda block: BlockRows(store[block]))
    learned = LearnedChanges(subject, rows, scenes_of(store), tuple(saes), seed)
    records = _records(store, saes, learned)
    return ErasureBench(subject, settings, records, tuple(saes), trials, tests)


def _records(
    store: Store, saes: Mapping[str, SAE], learned: LearnedChanges
) -> Callable[[str, str], FactorRecords | None]:
    """What is recorded of a block and a factor, read when first asked for; None of fewer than two values."""
    shown = [scene.factors() for scene in scenes_of(store)]

    @cache
    def records(block: str, factor: str) -> FactorRecords | None:
        images: dict[str, list[int]] = {}
        for number, factors in enumerate(shown):
            images.setdefault(factors[factor], []).append(number)
        if len(images) < 2:
            return None
        rows = {value: store[block].filter(samples=some) for value, some in sorted(images.items())}
        return FactorRecords.of(saes[block], rows, learned)

    return records


def _keys(settings: ErasureSettings, value: Value) -> list[JSON]:
    """The names of a value's results; of the control, which may be none, no name."""
    return [["erasure", value, method] for method in RULES if method in settings.methods]


def _rows(bench: ErasureBench, results: ResultCache, progress: bool) -> list[Row]:
    rows: list[Row] = []
    for value in tqdm(bench.settings.values, desc="erasure", disable=not progress):
        about: Row = {"factor": value[0], "value": value[1]}
        asked = [m for m in RULES if m in bench.settings.methods]
        of_value: dict[str, list[Row]]
        of_value = {m: results.get(["erasure", value, m], bench.measured, m, value) for m in asked}
        for first in of_value.get("saeuron", []):
            key: JSON = ["erasure control", value, CONTROL_RULE]
            of_value["random"] = results.get(key, bench.control, value, str(first["option"]))
        rows += [{**about, "method": method, **row} for method, some in of_value.items() for row in some]
    return rows


def trial_rows(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """What each row's option was chosen among; of rows of versions before nothing."""
    return [
        {**{name: row[name] for name in ("factor", "value", "method")}, **tried}
        for row in rows
        for tried in row.get(TRIALS, ())
    ]


def markdown(rows: Sequence[Mapping[str, JSON]]) -> str:
    """Each method's means over the values, and every value."""

    def cell(row: Mapping[str, JSON], name: str) -> str:
        low, high = (float(str(row[f"{name}_{end}"])) for end in ("low", "high"))
        return f"{float(str(row[name])):.2f} [{low:.2f}, {high:.2f}]"

    overall = []
    for method in dict.fromkeys(str(row["method"]) for row in rows):
        some = [row for row in rows if row["method"] == method]
        means = (bootstrap(np.array([float(str(row[name])) for row in some])) for name in MEASURES)
        overall.append(
            [method, str(len(some)), *(f"{m.mean:.2f} [{m.low:.2f}, {m.high:.2f}]" for m in means)]
        )
    each = [
        [f"{row['factor']} {row['value']}", str(row["method"]), str(row["option"])]
        + [cell(row, name) for name in MEASURES]
        for row in rows
    ]
    tables = (["method", "values", *MEASURES], overall), (["value", "method", "option", *MEASURES], each)
    return "\n\n".join(markdown_table(head, body) for head, body in tables) + "\n"
