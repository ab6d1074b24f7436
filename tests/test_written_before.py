"""Files of every kind that unbox 0.1.0 wrote are read as it read them, and what it did is not done again.

The files are in `tests/written_before/`, where `make.py` tells how each was made; `expected.json` holds what
that version itself read from them. Paths of modules may change here; the files and the numbers may not.
"""

import asyncio
import csv
import hashlib
import json
import shutil
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl

import numpy as np
import pytest
import torch
from PIL import Image

from activation_store import Store, verify
from activation_store.files import canonical
from tests.models.tiny import tiny_pipeline
from unbox import result_cache
from unbox.atlas import Atlas, AtlasPlan, Filter, set_label
from unbox.atlas import build as build_atlas
from unbox.capture import collect, read_prompts
from unbox.edit import Edits
from unbox.edits import bind, load_edits
from unbox.errors import UnboxError
from unbox.experiments.experiment_plan import read_plan
from unbox.experiments.riebench.examples import read_examples
from unbox.experiments.riebench.riebench_settings import RiebenchSettings
from unbox.experiments.riebench.run_riebench import bench_riebench
from unbox.experiments.sweep import run_experiment
from unbox.former_names import renamed
from unbox.ground_truth.demo import demo_plan
from unbox.ground_truth.demo import run_demo as demo
from unbox.ground_truth.demo.demo_plan import DemoPlan
from unbox.models import load
from unbox.models.model import Model, weight_hash
from unbox.models.png_record import read_png
from unbox.models.systems import folder_system
from unbox.result_cache import ResultCache
from unbox.sae import load_saes, read_toml, train, train_step
from unbox.shapes import FACTORS

HERE = Path(__file__).parent / "written_before"
EXPECTED = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))


def near(value, rel=1e-4):
    """JSON with its floats compared to `rel`: other processors sum in another order."""
    if isinstance(value, dict):
        return {key: near(each, rel) for key, each in value.items()}
    if isinstance(value, list):
        return [near(each, rel) for each in value]
    return pytest.approx(value, rel=rel, abs=rel) if isinstance(value, float) else value


def plain(value):
    """As JSON gives it back: lists for tuples, text for keys."""
    return json.loads(json.dumps(value, default=lambda array: array.tolist()))


def sha(data):
    return hashlib.sha256(data).hexdigest()


def times(folder):
    """When each file of a folder was written: tells whether any was written again."""
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory):
    """Everything, to read from."""
    home = tmp_path_factory.mktemp("before") / "home"
    shutil.copytree(HERE, home)
    for packed in home.glob("*.zip"):
        shutil.unpack_archive(packed, home)
    return home


@pytest.fixture
def home(unpacked, tmp_path):
    """A copy of everything, to write to."""
    return Path(shutil.copytree(unpacked, tmp_path / "home"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The model of all these files: its weights made anew, its row as it was written."""
    folder = tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model", timestep_spacing="trailing")
    shutil.copyfile(HERE / "model" / "system.json", folder / "system.json")
    return load(str(folder), device="cpu")


class Same:
    """A model that passes for the one the files are of, and refuses to generate.

    Libraries, the folder, and the last bits of drawn weights may differ from those that were recorded; all
    else that names results is this version's own.
    """

    def __init__(self, model, source="model"):
        self.model, self.source = model, source

    def __getattr__(self, name):
        return getattr(self.model, name)

    @property
    def fingerprint(self):
        before, now = EXPECTED["model"]["fingerprint"], self.model.fingerprint
        taken = ["weights", "libraries"]
        if now["libraries"] != before["libraries"]:
            taken.append("scheduler")  # diffusers' own words
        return {**now, **{name: before[name] for name in taken}, "source": self.source}

    def generate(self, *args, **options):
        raise AssertionError("what was there is made again")


class Generating(Same):
    """The same, for random controls, whose rule is new; `made`: the prompts that were drawn."""

    def __init__(self, model, source="model"):
        super().__init__(model, source)
        self.made = []

    def generate(self, prompts, **options):
        self.made += [prompts] if isinstance(prompts, str) else prompts
        return type(self.model).generate(self, prompts, **options)  # with this one's clock


def test_rows_of_systems():
    expected = EXPECTED["model"]
    assert plain(folder_system(HERE / "model").to_json()) == expected["tiny"]
    full = folder_system(HERE / "systems" / "full")
    assert plain(full.to_json()) == expected["full"]
    assert [need[:3] for need in plain(full.needs)] == expected["full_needs"]  # what is replaced came later
    assert full.download == expected["full_download"]
    assert [[n, list(grid)] for n, grid in full.timesteps.items()] == expected["full_timesteps"]


def test_a_model_is_known_again(tiny):
    now, before = plain(Same(tiny).fingerprint), EXPECTED["model"]["fingerprint"]
    assert now == before
    assert tiny.fingerprint["weights"].keys() == before["weights"].keys()
    layer = torch.nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(6.0).reshape(2, 3))
        layer.bias.zero_()
    assert weight_hash(layer) == EXPECTED["model"]["weight_hash"]


@pytest.mark.parametrize("name", ["store", "store-int8"])
def test_a_store(unpacked, name):
    store, expected = Store.open(unpacked / name), EXPECTED[name]
    assert store.digest == expected["digest"]
    assert plain(store.schema.to_json()) == expected["schema"]
    assert plain(store.provenance) == expected["schema"]["provenance"]
    assert (len(store), list(store.blocks)) == (expected["images"], expected["blocks"])
    assert [[s.index, s.prompt, s.seed, dict(s.meta)] for s in store.samples] == expected["samples"]
    assert plain(store.missing(13)) == expected["missing"]
    assert [sha(store.thumbnail_or_empty(i)) for i in range(len(store))] == expected["thumbnails"]
    assert set(expected["rows"]) == set(store.blocks)
    assert verify(unpacked / name).good


@pytest.mark.parametrize(
    ("name", "block"), [("store", "mid.0"), ("store", "up.1.2"), ("store-int8", "up.1.2")]
)
def test_rows_of_a_store(unpacked, name, block):
    store, expected = Store.open(unpacked / name), EXPECTED[name]["rows"][block]
    rows, moments = store[block], store.moments(block)
    assert list(rows.shape) == expected["shape"]
    sums = [float(np.abs(rows.read(i).astype(np.float64)).sum()) for i in range(len(store))]
    assert sums == near(expected["sums"], 1e-12)
    assert rows.read(len(store) - 1)[-1, -1, -1, -1].tolist() == near(expected["last"], 1e-8)
    assert rows.positions(1).tolist() == expected["positions"]
    assert rows.digest == expected["digest"]
    assert rows.filter(steps=1, branches="cond", samples=[0, 3]).digest == expected["filtered"]
    assert rows.sample(5, seed=2).astype(np.float64).sum() == near(expected["sample"], 1e-9)
    with closing(rows.batches(7, seed=5)) as batches:
        assert [next(batches).astype(np.float64).sum() for _ in range(2)] == near(expected["batches"], 1e-9)
        assert plain(batches.cursor) == expected["cursor"]
    with closing(rows.batches(7, seed=5, cursor=expected["cursor"])) as batches:
        assert next(batches).astype(np.float64).sum() == near(expected["third"], 1e-9)
    assert moments.count == expected["count"]
    assert (moments.mean.sum(), moments.m2.sum()) == (near(expected["mean"]), near(expected["m2"]))
    assert moments.norms.argmax(-1).tolist() == expected["norms"]


def test_a_store_that_is_whole_is_not_collected_again(home, tiny):
    options = {"steps": 2, "guidance": 0.0, "height": 16, "width": 24, "seed": 3, "batch_size": 4}
    prompts = read_prompts(str(home / "prompts.jsonl"))
    written = times(home / "store" / "shards")
    store = collect(
        Same(tiny),
        prompts,
        home / "store",
        blocks=("mid.0", "up.1.2"),
        thumbnail=12,
        progress=False,
        **options,
    )
    assert store.digest == EXPECTED["store"]["digest"]
    assert times(home / "store" / "shards") == written


@pytest.mark.parametrize("name", ["mid.0", "up.1.2"])
def test_an_sae(unpacked, name):
    saes = load_saes(unpacked / "saes")
    assert list(saes) == list(EXPECTED["saes"])
    sae, expected = saes[name], EXPECTED["saes"][name]
    for field in ("name", "block", "k", "latents", "width", "threshold", "update_std"):
        assert getattr(sae, field) == expected[field]
    assert {k: v for k, v in sae.meta.items() if k != "figures"} == expected["meta"]
    assert sae.meta["figures"]["fvu"] == expected["fvu"]
    x = (np.random.RandomState(0).standard_normal((5, sae.width)) * 3).astype(np.float32)
    codes = sae.encode(torch.from_numpy(x))
    assert codes.values.tolist() == near(expected["values"])
    assert codes.indices.tolist() == expected["indices"]
    assert sae.decode(codes)[:, :4].tolist() == near(expected["decoded"])
    for field, values in expected["stats"].items():
        assert getattr(sae.stats, field).tolist() == near(values, 1e-7)


def test_plans_of_training():
    new = {"aux_k": 256}  # a plan file is asked for today: it has what has become a choice
    assert plain(read_toml(HERE / "plan.toml").to_json()) == EXPECTED["plan"] | new
    assert plain(read_toml(HERE / "stopped.toml").to_json()) == EXPECTED["stopped"]["plan"] | new


def test_a_finished_training_is_only_read(home):
    written = times(home / "saes")
    plan = read_toml(home / "plan.toml")
    saes = train(
        Store.open(home / "store"), home / "saes", plan=plan, held_out=0.2, device="cpu", progress=False
    )
    assert list(saes) == list(EXPECTED["saes"])
    assert times(home / "saes") == written


def test_a_stopped_training_goes_on(home, monkeypatch):
    """Lines of metrics from before the stop stay (they tell the speed); the rest comes out as it did."""
    expected, out = EXPECTED["stopped"], home / "saes-stopped"
    before = (out / "metrics.jsonl").read_text().splitlines()
    assert len(before) == expected["lines"]
    # It was begun on a processor with products in bf16, which `auto` takes there.
    monkeypatch.setattr(train_step, "low_precision", lambda _precision, _device: torch.bfloat16)
    saes = train(Store.open(home / "store"), out, resume=True, device="cpu", progress=False)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert lines[: len(before)] == before
    keys = ("sae", "tokens", "lr", "fvu", "l0")
    told = [{key: json.loads(line)[key] for key in keys} for line in lines]
    assert told == near([{key: line[key] for key in keys} for line in expected["metrics"]], 1e-3)
    assert list(saes) == list(expected["saes"])
    for name, sae in saes.items():
        assert sae.W_dec[0, :6].tolist() == near(expected["saes"][name]["W_dec"], 1e-3)
        assert float(sae.W_enc.abs().double().sum()) == near(expected["saes"][name]["sum"], 1e-3)
    assert not list(out.glob("checkpoint-*"))


def test_an_atlas(unpacked, tiny):
    atlas, expected = Atlas.open(unpacked / "atlas"), EXPECTED["atlas"]
    assert len(atlas) == expected["features"]
    assert list(atlas.blocks) == expected["blocks"]
    assert list(atlas.steps) == expected["steps"]
    assert list(atlas.branches) == expected["branches"]
    assert atlas.intervals == expected["intervals"]
    assert [asdict(sae) for sae in atlas.saes] == expected["saes"]
    assert [facts.name for facts in atlas.search(limit=1000, order="index")] == expected["names"]
    assert plain(atlas.summary()) == near(expected["summary"])
    for asked, names in expected["searches"]:
        options = {name: asked.pop(name) for name in ("order", "limit", "offset") if name in asked}
        found = atlas.search(asked.pop("words", ""), Filter(**asked), **options)
        assert [facts.name for facts in found] == names, asked
    usual = atlas._usual_likeness(tiny)  # what is taken off the cosine since
    found = {
        each.facts.name: each.score + float(usual[each.facts.id])
        for each in atlas.meaning(tiny, "a red cat", limit=1000)
    }
    assert {name: found[name] for name, _ in expected["meaning"]} == near(dict(expected["meaning"]), 1e-3)


@pytest.mark.parametrize("name", EXPECTED["atlas"]["asked"])
def test_a_feature_of_an_atlas(unpacked, name):
    atlas, expected = Atlas.open(unpacked / "atlas"), EXPECTED["atlas"]["asked"][name]
    assert plain(asdict(atlas.feature(name))) == near(expected["facts"], 1e-6)
    for kind, rows in expected["examples"].items():
        interval = int(kind[-1]) if kind[-1].isdigit() else None
        found = atlas.examples(name, kind.rstrip("0123456789"), interval)
        told = [
            [e.image, e.prompt, e.seed, e.peak, float(e.heat.sum()), sha(e.thumbnail.read_bytes())]
            for e in found
        ]
        assert told == near(rows, 1e-6)
    cover = atlas.cover(name)
    assert (cover and sha(cover.read_bytes())) == expected["cover"]
    histogram, life = atlas.histogram(name), atlas.life(name)
    assert plain([histogram.edges, histogram.counts]) == near(expected["histogram"], 1e-6)
    assert plain([life.steps, life.places, life.first, life.last, life.overlap]) == near(
        expected["life"], 1e-6
    )
    assert atlas.by_branch(name) == expected["by_branch"]
    assert plain(atlas.by_position(name)) == near(expected["by_position"], 1e-6)
    for kind, rows in expected["related"].items():
        assert plain([[r.facts.name, r.score, r.share] for r in atlas.related(name, kind)]) == near(
            rows, 1e-6
        )
    assert plain(atlas.words(name)) == near(expected["words"], 1e-6)
    assert [asdict(label) for label in atlas.labels(name)] == expected["labels"]


def test_an_atlas_is_not_built_again_and_keeps_its_labels(home, tiny):
    """Its name tells what it was made of; when it is made anew without captions, labels are carried over."""
    atlas = Atlas.open(home / "atlas")
    asked = EXPECTED["atlas"]["asked"]
    kinds = {label["kind"]: name for name, told in asked.items() for label in told["labels"]}
    plan, written = AtlasPlan(**atlas.index["plan"]), times(home / "atlas")
    inputs = Store.open(home / "store"), load_saes(home / "saes"), home / "atlas"
    build_atlas(*inputs, plan=plan, model=Same(tiny), progress=False)
    assert times(home / "atlas") == written
    set_label(atlas, kinds["human"], "crimson", "Bob")
    assert Atlas.open(home / "atlas").feature(kinds["human"]).label == "crimson"
    build_atlas(*inputs, plan=plan, progress=False)
    made = Atlas.open(home / "atlas")
    assert made.index["data"] != atlas.index["data"]
    assert [label.text for label in made.labels(kinds["human"])][:2] == ["crimson", "something red"]
    assert made.feature(kinds["model"]).label == "moons"


@pytest.mark.parametrize("name", EXPECTED["edits"])
def test_edits(unpacked, tiny, name):
    """Every field as it was, the same JSON again, and the same done to an image."""
    edits, expected = load_edits(unpacked / "edits" / f"{name}.json"), EXPECTED["edits"][name]
    told = []
    for edit in edits:
        where = edit.where
        told.append({
            "block": edit.block, "op": edit.op, "subject": edit.subject, "unit": edit.unit,
            "branch": edit.branch, "value": edit.value, "feature": edit.feature,
            "direction": [len(edit.direction), sum(edit.direction), *edit.direction[:2]],
            "steps": edit.steps, "above": edit.above, "source": edit.source,
            "at": [edit.at(step) for step in range(4)], "sign": [edit.sign("cond"), edit.sign("uncond")],
            "identity": edit.identity,
            "where": None if where is None else "own" if where.own else where.on(3, 5),
            "hash": sha(canonical(edit.to_json())),
        })  # fmt: skip
    assert plain(told) == near(expected["edits"], 1e-6)
    assert list(edits.blocks) == expected["blocks"]
    if name not in ("one", "list"):  # these are short forms, which no version writes
        assert edits.to_json() == json.loads((unpacked / "edits" / f"{name}.json").read_text())
    saes = load_saes(unpacked / "saes")
    saes["mine"] = replace(saes["mid.0"], name="mine")
    (latents,) = tiny.generate(
        "a red cat",
        seed=7,
        steps=3,
        guidance=2.0,
        height=32,
        width=32,
        output="latent",
        edits=bind(edits, saes),
    )
    assert plain(latents[:, ::6, ::6].float()) == near(expected["latents"], 1e-3)


@pytest.fixture(scope="session")
def links():
    return json.loads((HERE / "links.json").read_text())


@pytest.mark.parametrize("name", EXPECTED["links"]["recipes"])
def test_recipes_in_links(links, name):
    from unbox.explorer.image_recipe import Recipe

    recipe, expected = Recipe.from_link(links["recipes"][name]), EXPECTED["links"]["recipes"][name]
    assert plain(recipe.to_json()) == expected
    assert recipe.to_link() == links["recipes"][name]
    assert recipe == Recipe.from_json(expected)
    assert recipe.active.to_json() == EXPECTED["links"]["active"][name]
    for field in ("system", "prompt", "seed", "steps", "guidance", "height", "width"):
        assert getattr(recipe, field) == expected[field]
    assert recipe.negative_prompt == (expected["negative_prompt"] or "")
    assert (sorted(recipe.off), recipe.guard) == (expected.get("off", []), expected.get("guard", False))


@pytest.fixture(scope="session")
def lab(unpacked, tiny):
    from unbox.explorer.open_session import open_session

    figures, bench = unpacked / "evaluated" / "figures.json", unpacked / "bench-shapes"
    opened = open_session(tiny, unpacked / "saes", unpacked / "atlas", figures, bench)
    assert opened.systems == ("tiny",)
    return opened


@pytest.fixture(scope="session")
def arrive(lab):
    """What the explorer does with a page's query string: value by component."""
    from unbox.explorer.interface import build

    async def made():  # Gradio makes a loop, and never closes it, where none runs
        return build(lab)

    app = asyncio.run(made())
    (loaded,) = [fn.fn for fn in app.fns.values() if (app._id, "load") in fn.targets]
    return lambda query: loaded(SimpleNamespace(query_params=dict(parse_qsl(query.removeprefix("?")))))


def said(shown):
    """All that an answer holds, as text, and the tab that it opens."""
    tabs = [v.selected for v in shown.values() if type(v).__name__ == "Tabs"]
    return " ".join(map(str, shown.values())), *tabs


def test_links_to_pages_open_them(links, arrive):
    recipes = EXPECTED["links"]["recipes"]
    for what, query in links["queries"].items():
        text, *tabs = said(arrive(query))
        page = what.partition(",")[0].partition(" ")[0]
        assert tabs == [page], what
        if what == "feature":
            assert "mid.0/3" in text
        if "&r=" in query:
            name = {"explore": "plain", "paint": "full", "compare": "edited"}[page]
            assert recipes[name]["prompt"] in text
            assert links["recipes"][name] in text
    text, _ = said(arrive(links["queries"]["search, everything"]))
    assert all(str(value) in text for value in EXPECTED["links"]["search"].values())


def test_what_was_measured_is_shown(lab, unpacked):
    from unbox.explorer.pages.blocks_page import figures_of

    figures = json.loads((unpacked / "evaluated" / "figures.json").read_text())
    assert {name: figures_of(lab, name) for name in lab.saes} == figures
    assert lab.bench == json.loads((unpacked / "bench-shapes" / "results.json").read_text())


@pytest.mark.parametrize("name", EXPECTED["pictures"])
def test_records_of_pictures(name):
    assert read_png(HERE / "pictures" / f"{name}.png") == EXPECTED["pictures"][name]


@pytest.mark.parametrize("name", ["generate", "explorer"])
def test_a_picture_is_made_again_from_its_record(lab, name):
    from unbox.explorer.image_recipe import Recipe

    path = HERE / "pictures" / f"{name}.png"
    recipe = Recipe.from_json(read_png(path))
    (image,) = lab.generate([recipe])
    with Image.open(path) as before:
        change = np.abs(np.asarray(image, np.float32) - np.asarray(before.convert("RGB"), np.float32))
    assert change.mean() < 0.5
    assert recipe.edits == Edits.from_json(EXPECTED["pictures"][name]["edits"])


def test_an_experiment_is_only_read(home, tiny):
    """Rows and images have the same names, so nothing is made again but what acts on the object, whose place
    is drawn finer now, the random control among it, whose rule is new as well."""
    expected, folder = EXPECTED["experiment"], home / "experiment"
    plan = read_plan(folder / "sweep.toml")
    assert [condition.label for condition in plan.conditions] == expected["labels"]
    assert [[prompt.text, plain(prompt.meta)] for prompt in plan.prompts] == expected["prompts"]
    assert plan.sampling == expected["sampling"]
    written = times(folder / "out" / "images") | times(folder / "out" / "rows")
    assert sorted(path.name for path in written) == expected["files"]
    tables = {name: (folder / "out" / name).read_text() for name in ("manifest.json", "summary.csv")}
    made: list[str] = []

    class Control(Same):
        def generate(self, prompts, **options):
            made.extend(prompts)
            return tiny.generate(prompts, **options)

    rows = run_experiment(plan, folder / "out", model=Control(tiny), progress=False)
    again = [row for row in expected["rows"] if row["edit"] == "more"]
    assert made == [row["prompt"] for row in again]
    assert same(plain(rows)) == same(expected["rows"])
    now = times(folder / "out" / "images") | times(folder / "out" / "rows")
    assert now == now | written
    assert len(now) == len(written) + 2 * len(again)
    assert json.loads((folder / "out" / "manifest.json").read_text()) == json.loads(tables["manifest.json"])
    now = csv.DictReader((folder / "out" / "summary.csv").read_text().splitlines())
    before = csv.DictReader(tables["summary.csv"].splitlines())
    for new, old in zip(now, before, strict=True):
        assert new["condition"] == old["condition"]
        for name in ("images", "rmse", "rmse_low", "rmse_high"):
            if not old["condition"].startswith("more"):
                assert float(new[name]) == near(float(old[name]))
    assert (folder / "out" / "report.html").is_file()


def same(rows):
    return [row for row in rows if row["edit"] != "more"]


def test_riebench_of_other_rules_is_refused_by_name(home, tiny):
    """Its features were carried otherwise, and its neurons were channels of updates: no row of it is
    taken."""
    expected, folder = EXPECTED["riebench"], home / "riebench"
    examples = read_examples(folder / "examples.json")
    found = plain([asdict(example) for example in examples])
    assert [{k: v for k, v in each.items() if k in expected["examples"][0]} for each in found] == expected[
        "examples"
    ]
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in expected["settings"].items()}
    written = times(folder / "out" / "kept")
    with pytest.raises(UnboxError, match="settings rules was none, is 2"):
        bench_riebench(
            Generating(tiny),
            load_saes(home / "saes"),
            examples,
            folder / "out",
            RiebenchSettings(**settings),
            progress=False,
        )
    assert times(folder / "out" / "kept") == written


def test_kept_results_of_a_benchmark_are_found():
    """Named by model, SAEs and settings, but for the values that were asked for."""
    folder = HERE / "bench-shapes"
    context = json.loads((folder / "manifest.json").read_text())
    context["settings"] = {k: v for k, v in context["settings"].items() if k != "values"}
    for key, result in EXPECTED["bench-shapes"]:
        assert (
            ResultCache(folder / "kept", context).get(key, pytest.fail, "what was kept is not found")
            == result
        )


def test_a_finished_demo_is_only_read(home, tiny, monkeypatch):
    """Every stage is found; the page is written from what the stages left."""
    expected, folder = EXPECTED["demo"], home / "demo"
    small = Same(Model(tiny.pipeline, folder_system(home / "systems" / "small")), "small")
    monkeypatch.setattr(result_cache, "version", lambda name: expected["version"])
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in expected["plan"].items()}
    settings = renamed(settings, demo_plan.FORMER)
    settings["values"] = tuple(map(tuple, settings["values"]))
    settings["blocks"] = ("all",)  # which was the only choice
    assert settings.pop("model") == "small"
    monkeypatch.setattr(demo, "autoencoders", lambda trained: {})  # they are not among the files
    monkeypatch.setattr(demo, "with_control", lambda subject, cases, saes, made, seed: made)
    row = {"block": "mid.0", "change": 0.0, "factors": dict.fromkeys(FACTORS, 0.0), "pictures": []}
    monkeypatch.setattr(demo, "ablate_blocks", lambda subject, cases, blocks: [row])
    written, lines = times(folder / "stages"), []
    found = demo.run(small, DemoPlan(**settings), folder, lines.append).findings
    controls = [s.folder for s in found.stages if s.folder.name.startswith(("control-", "ablate-"))]
    assert [s.folder.name for s in found.stages if s.folder not in controls] == expected["stages"]
    ran = [line for line in lines if line.startswith("[") and "done before" not in line]
    assert len(ran) == len(controls) == len(expected["edits"]) + 1  # a rule and a stage that are new
    assert all("random features" in line or "without each" in line for line in ran)
    now = times(folder / "stages")
    assert now == now | written
    assert len(now) == len(written) + len(controls)
    assert [prompt.text for prompt in found.cases.prompts] == expected["captions"]
    assert list(found.cases.readings) == expected["readings"]
    edits = [{k: v for k, v in edit.items() if k != "pictures"} for edit in found.edits]
    assert plain(edits) == expected["edits"]
    for name, saved in expected["saved"].items():
        assert load_edits(HERE / "demo" / "edits" / name).to_json() == saved
        assert load_edits(folder / "edits" / name).to_json() == saved
    page = (folder / "report.html").read_text()
    assert page.count("data:image") == expected["pictures_shown"] + len(found.cases)  # whole, without a block
