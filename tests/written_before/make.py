"""How the files beside this script were written. Provenance: it runs under commit 1a4846a only.

These are files of every kind that unbox 0.1.0 wrote at that commit, and in `expected.json` what it read from
them. `tests/test_written_before.py` asks of every later version to read the same. To make them again:

    git worktree add ../before 1a4846a
    cd ../before && PYTHONPATH=$PWD python .../tests/written_before/make.py

The module paths below are those of 1a4846a and are to stay so: do not rename them. The model is the tiny
random SDXL of `tests/models/tiny.py`, which that module makes anew, the same each time; only `system.json`
is kept of it. Everything runs in a temporary folder that is the working directory, so that no path of a
machine is recorded. Timestamps and durations are those of the run. Folders of HDF5 are packed, whole.

    model/system.json           the row of data that a diffusers folder carries
    systems/full/system.json    the same with every field set (parts, grids by step count, ...)
    systems/small/system.json   the row under which the demo ran: the tiny model at 32 pixels
    prompts.jsonl, store.zip    float16, 8 images of 16 x 24 pixels, 2 steps, thumbnails: `unbox collect`
    store-int8.zip              int8 with scales, 3 of the positions, both branches, step 1 alone, two shards
    plan.toml, saes/            two SAEs and the run's records: `unbox train --plan plan.toml`
    stopped.toml, saes-stopped/ a run of two SAEs that was stopped right after a checkpoint
    evaluated/figures.json      `unbox evaluate --out`
    atlas.zip                   with a label by a person and one by a model
    edits/                      every op, unit, branch and mask; also the short forms of the JSON
    links.json                  recipes in links, and a query string of every page of the explorer
    pictures/                   PNGs with their record, of `unbox generate`, the explorer, `unbox invert`
    experiment/                 `unbox experiment sweep.toml --out out`, without plots, page and parquet
    riebench/                   `unbox bench riebench`, without its images
    bench-shapes/               some kept results, manifest and results of `unbox bench shapes`
    demo/                       the result of every stage of `unbox demo`, and the edits that it saved
"""

# ruff: noqa: I001, RUF100  (modules that are no longer there are sorted as strangers)

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import numpy as np
import torch

import unbox
from activation_store import Store, write_json
from activation_store.files import canonical
from tests.edits.dictionaries import random_sae
from tests.models.tiny import tiny_pipeline
from unbox.atlas import Atlas, build, set_label
from unbox.atlas import Plan as AtlasPlan
from unbox.capture import collect
from unbox.cli.main import main
from unbox.edits import bind, load_edits, save_edits
from unbox.experiments.bench.riebench import Settings as Riebench
from unbox.experiments.bench.riebench import bench_riebench, read_examples
from unbox.experiments.bench.shapes import Settings as BenchShapes
from unbox.experiments.bench.shapes import bench_shapes
from unbox.experiments.demo.plan import Plan as DemoPlan
from unbox.experiments.demo.run import run as run_demo
from unbox.experiments.plan import read_plan
from unbox.experiments.run import run_experiment
from unbox.explorer.pages.search import Asked
from unbox.explorer.parts import link
from unbox.explorer.pictures import png_with_recipe
from unbox.explorer.recipe import Recipe
from unbox.explorer.start import open_lab
from unbox.models import System
from unbox.models.model import weight_hash
from unbox.models.png import read_png
from unbox.models.systems import Part, folder_system
from unbox.sae import checkpoint, load_saes, read_toml, train
from unbox.words import Block, Direction, Edit, Edits, Feature

COMMIT = "1a4846a"
OUT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent).resolve()

PLAN = """\
tokens = 6000
batch_size = 60
log_every = 3000
checkpoint_every = 100000
seed = 4
decay = 1000
clip = 1.0

[[sae]]
block = "mid.0"
k = 3
latents = 24

[[sae]]
block = "up.1.2"
k = 2
latents = 16
variant = "batchtopk"
lr = 0.003
seed = 1
"""

STOPPED = """\
tokens = 960
batch_size = 48
log_every = 240
checkpoint_every = 480

[[sae]]
block = "up.1.2"
k = 2
latents = 8
variant = ["topk", "matryoshka"]
"""

SWEEP = """\
title = "A sweep"
about = "Written before."
model = "model"
saes = "../saes"
prompts = { shapes = 2, seed = 7 }
seeds = [5]
steps = 1
guidance = 0.0
height = 32
width = 32
batch_size = 4
metrics = ["pixels", "colour"]

[[edit]]
name = "ablate"
op = "scale"
value = 0.0
where = { box = [0.0, 0.25, 0.5, 1.0] }
grid = { block = ["mid.0", "up.1.2"] }

[[edit]]
name = "more"
block = "up.1.2"
feature = 3
op = "add"
unit = "deviation"
where = "object"
target = ["colour", "red"]
control = 1
grid = { value = [8] }

[[edit]]
name = "from a file"
file = "../edits/list.json"
"""

EXAMPLES = [
    {
        "id": "1",
        "editing_type_id": "1",
        "original_prompt": "a [cat] on a boat",
        "editing_prompt": "a [dog] on a boat",
    },
    {
        "id": "no/2",
        "editing_type_id": "9",
        "original_prompt": "a tree",
        "editing_prompt": "[painting] of a tree",
    },
]


def numbers(array, digits=9):
    """An array as nested lists, of as many digits as float32 has."""
    return json.loads(
        json.dumps(np.asarray(array).tolist(), default=float),
        parse_float=lambda t: float(f"{float(t):.{digits}g}"),
    )


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_model(expected):
    """The tiny SDXL twice: are they the same? `timestep_spacing`: a tiny model that one step may sample."""
    spacing = {"timestep_spacing": "trailing"}
    system = System(
        "tiny", "a tiny random SDXL", None, "EulerDiscreteScheduler", spacing, steps=2, guidance=0.0, size=64
    )
    for folder in ("model", "again"):
        tiny_pipeline(Path(folder), timestep_spacing="trailing")
        system.save(Path(folder))
    model = unbox.load("model", device="cpu")
    assert model.weight_hashes() == unbox.load("again", device="cpu").weight_hashes()
    shutil.rmtree("again")
    full = System(
        name="full",
        title="every field",
        base="owner/base",
        scheduler="LCMScheduler",
        scheduler_config={"original_inference_steps": 100, "timestep_spacing": "trailing"},
        prediction="v_prediction",
        steps=4,
        step_counts=(1, 4),
        timesteps={1: (399,), 4: (999, 749, 499, 249)},
        guidance=1.5,
        distilled=True,
        size=512,
        parts=(Part("unet", "owner/unet", "unet.safetensors", 12), Part("lora", "owner/lora", "", 3)),
        refiner="owner/refiner",
        split=0.8,
        image_to_image=True,
        bytes=100,
        refiner_bytes=10,
        paper="arXiv:0000.00000",
        licence="none",
        verified="nothing",
    )
    Path("systems/full").mkdir(parents=True)
    full.save(Path("systems/full"))
    layer = torch.nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(6.0).reshape(2, 3))
        layer.bias.zero_()
    read = folder_system(Path("systems/full"))
    shutil.copytree("model", "small")
    replace(system, name="tiny-small", size=32).save(Path("small"))
    Path("systems/small").mkdir()
    shutil.copyfile("small/system.json", "systems/small/system.json")
    expected["model"] = {
        "fingerprint": model.fingerprint,
        "weight_hash": weight_hash(layer),
        "tiny": folder_system(Path("model")).to_json(),
        "full": read.to_json(),
        "full_needs": read.needs,
        "full_download": read.download,
        "full_timesteps": [[n, list(t)] for n, t in read.timesteps.items()],
    }
    return model


def make_stores(model):
    with open("prompts.jsonl", "w") as file:
        for i in range(8):
            colour, thing = ("red", "green", "blue")[i % 3], ("cat", "boat", "star", "tree")[i % 4]
            file.write(
                json.dumps({"caption": f"a {colour} {thing}", "number": i, "of": {"colour": colour}}) + "\n"
            )
    words = "collect --model model --prompts prompts.jsonl --store store --blocks mid.0 up.1.2 --steps 2"
    words += " --guidance 0 --height 16 --width 24 --seed 3 --batch-size 4 --thumbnail 12 --device cpu"
    assert not main(words.split())
    collect(
        model, ["a red cat", "a blue boat", "a green star", "a moon", "a house"], "store-int8",
        blocks="up.1.2", steps=2, guidance=2.0, negative_prompt="a bird", height=16, width=24,
        seed=9, keep_steps=(1,), positions=3, dtype="int8", thumbnail=None, batch_size=2, shard_samples=3,
        progress=False,
    )  # fmt: skip


def told_store(path):
    """What is read from a store."""
    store = Store.open(path)
    told = {
        "digest": store.digest,
        "schema": store.schema.to_json(),
        "images": len(store),
        "blocks": list(store.blocks),
        "samples": [[s.index, s.prompt, s.seed, dict(s.meta)] for s in store.samples],
        "missing": [list(hole) for hole in store.missing(13)],
        "thumbnails": [sha(store.thumbnail_or_empty(i)) for i in range(len(store))],
        "rows": {},
    }
    for block in store.blocks:
        rows, moments = store[block], store.moments(block)
        batches = rows.batches(7, seed=5)
        first, second = next(batches).copy(), next(batches).copy()
        cursor = json.loads(json.dumps(batches.cursor))
        told["rows"][block] = {
            "shape": list(rows.shape),
            "sums": [float(np.abs(rows.read(i).astype(np.float64)).sum()) for i in range(len(store))],
            "last": numbers(rows.read(len(store) - 1)[-1, -1, -1, -1]),
            "positions": numbers(rows.positions(1)),
            "digest": rows.digest,
            "filtered": rows.filter(steps=1, branches="cond", samples=[0, 3]).digest,
            "sample": float(rows.sample(5, seed=2).astype(np.float64).sum()),
            "batches": [float(each.astype(np.float64).sum()) for each in (first, second)],
            "cursor": cursor,
            "third": float(next(batches).astype(np.float64).sum()),
            "count": moments.count,
            "mean": float(moments.mean.sum()),
            "m2": float(moments.m2.sum()),
            "norms": numbers(moments.norms.argmax(-1)),
        }
    return told


def make_saes(expected):
    Path("plan.toml").write_text(PLAN)
    Path("stopped.toml").write_text(STOPPED)
    words = "train --store store --out saes --plan plan.toml --held-out 0.2 --device cpu"
    assert not main(words.split())

    class Stopped(Exception):
        pass

    whole = checkpoint.write_checkpoint

    def stop(out, run):
        whole(out, run)
        raise Stopped

    store = Store.open("store")
    options = {"plan": read_toml("stopped.toml"), "held_out": 0.2, "device": "cpu", "progress": False}
    checkpoint.write_checkpoint = stop
    try:
        train(store, "saes-stopped", **options)
        raise AssertionError("it was not stopped")
    except Stopped:
        checkpoint.write_checkpoint = whole
    shutil.copytree("saes-stopped", "gone-on")
    finished = train(store, "gone-on", resume=True, device="cpu", progress=False)
    expected["plan"] = read_toml("plan.toml").to_json()
    expected["stopped"] = {
        "plan": read_toml("stopped.toml").to_json(),
        "lines": len(Path("saes-stopped/metrics.jsonl").read_text().splitlines()),
        "metrics": [json.loads(line) for line in Path("gone-on/metrics.jsonl").read_text().splitlines()],
        "saes": {
            name: {"W_dec": numbers(sae.W_dec[0, :6]), "sum": float(sae.W_enc.abs().double().sum())}
            for name, sae in finished.items()
        },
    }
    assert not main(["evaluate", "--saes", "saes", "--store", "store", "--out", "evaluated"])
    expected["saes"] = {name: told_sae(sae) for name, sae in load_saes("saes").items()}


def told_sae(sae):
    """What is read from an SAE, and what it makes of fixed vectors."""
    x = fixed(sae.width)
    codes = sae.encode(torch.from_numpy(x))
    return {
        "name": sae.name,
        "block": sae.block,
        "k": sae.k,
        "latents": sae.latents,
        "width": sae.width,
        "threshold": sae.threshold,
        "update_std": sae.update_std,
        "meta": {k: v for k, v in sae.meta.items() if k != "figures"},
        "fvu": sae.meta["figures"]["fvu"],
        "values": numbers(codes.values),
        "indices": numbers(codes.indices),
        "decoded": numbers(sae.decode(codes)[:, :4]),
        "stats": {
            each: numbers(getattr(sae.stats, each))
            for each in ("mean_active", "std_active", "density")
        },
    }  # fmt: skip


def fixed(width):
    """Vectors that any version of numpy draws."""
    return (np.random.RandomState(0).standard_normal((5, width)) * 3).astype(np.float32)


def make_atlas(model):
    plan = AtlasPlan(
        top=3, random=2, intervals=2, per_interval=2, decoys=2, caption_images=4, probes=4, places=300,
        bins=6, related=3,
    )  # fmt: skip
    build(Store.open("store"), load_saes("saes"), "atlas", plan=plan, model=model, progress=False)
    atlas = Atlas.open("atlas")
    live = [facts.name for facts in atlas.search(block="mid.0", order="density", limit=3)]
    set_label(atlas, live[0], "something red", "Ada")
    set_label(atlas, live[1], "moons", "a-model", kind="model", score=0.75, details={"images": 4})


def told_atlas(model):
    """What an atlas answers."""
    atlas = Atlas.open("atlas")
    everything = atlas.search(limit=1000, order="index")
    chosen = [f.id for f in atlas.search(limit=3)] + [f.id for f in atlas.search(block="up.1.2", limit=2)]
    silent = [f.id for f in atlas.search(density=(0.0, 0.0), limit=1)]
    told = {
        "features": len(atlas),
        "blocks": list(atlas.blocks),
        "steps": list(atlas.steps),
        "branches": list(atlas.branches),
        "intervals": atlas.intervals,
        "saes": [asdict(sae) for sae in atlas.saes],
        "names": [f.name for f in everything],
        "summary": [list(row) for row in atlas.summary()],
        "searches": [],
        "meaning": [[r.facts.name, r.score] for r in atlas.meaning(model, "a red cat", limit=5)],
        "asked": {},
    }
    for asked in (
        {"words": "red"}, {"words": "something red"}, {"words": "moons"}, {"words": "cat", "block": "up.1.2"},
        {"words": "mid.0/5"}, {"words": "7"}, {"density": [0.05, 0.2]}, {"step": 1},
        {"labelled": True, "order": "label score"}, {"order": "rarest", "limit": 4, "offset": 2},
        {"order": "activation", "sae": "mid.0", "limit": 5},
    ):  # fmt: skip
        found = [f.name for f in atlas.search(**asked)]
        told["searches"].append([asked, found])
    for number in dict.fromkeys(chosen + silent):
        facts, life, histogram = atlas.feature(number), atlas.life(number), atlas.histogram(number)
        cover = atlas.cover(number)
        told["asked"][facts.name] = {
            "facts": asdict(facts),
            "examples": {
                f"{kind}{'' if interval is None else interval}": [
                    [e.image, e.prompt, e.seed, e.peak, float(e.heat.sum()), sha(e.thumbnail.read_bytes())]
                    for e in atlas.examples(number, kind, interval)
                ]
                for kind, interval in (("top", None), ("random", None), ("decoys", None), ("interval", 1))
            },
            "cover": None if cover is None else sha(cover.read_bytes()),
            "histogram": [numbers(histogram.edges), numbers(histogram.counts)],
            "life": [
                list(life.steps),
                *(numbers(a) for a in (life.places, life.first, life.last, life.overlap)),
            ],
            "by_branch": atlas.by_branch(number),
            "by_position": numbers(atlas.by_position(number)),
            "related": {
                kind: [[r.facts.name, r.score, r.share] for r in atlas.related(number, kind)]
                for kind in ("neighbours", "coactive", "elsewhere")
            },
            "words": [list(word) for word in atlas.words(number)],
            "labels": [asdict(label) for label in atlas.labels(number)],
        }
    return told


def make_edits():
    folder = Path("edits")
    folder.mkdir()
    draw = np.random.RandomState(1)
    levels = (draw.randint(0, 256, (4, 6)) / 255).astype(np.float32)
    weights = draw.uniform(-0.5, 1.5, (2, 3, 3)).astype(np.float32)
    maps = (draw.randint(0, 2, (2, 1, 4, 4))).astype(np.float32)
    vector = numbers(draw.standard_normal(128).astype(np.float32), 6)
    feature, direction = Feature("mid.0", (2, 5)), Direction("mid.0", vector)
    files = {
        "ops": Feature("up.1.2", 3).add(2.0)
        + Feature("up.1.2", (1, 4)).scale(0.5)
        + Feature("up.1.2", 6).ablate()
        + Feature("up.1.2", 2).set(1.5)
        + feature.add(0.25),
        "replace": feature.replace(3.0) + Feature("up.1.2", 3).replace([1.0, 2.0], steps=(0, 2)),
        "direction": direction.add(4.0)
        + direction.scale(-1.0)
        + Direction("mid.0", vector[::-1]).set(0.5, unit="deviation"),
        "direction-replace": direction.replace(2.0),
        "block": Block("mid.0").scale(0.25)
        + Block("up.1.2").reconstruct()
        + Block("down.2.1").ablate(branch="uncond"),
        "units": feature.add(1.0, unit="absolute")
        + feature.add(1.0, unit="mean")
        + feature.add(0.5, unit="deviation")
        + Feature("mid.0", 7).set(2.0, unit="absolute"),
        "branches": feature.add(1.0, branch="both")
        + feature.add(1.0, branch="cond")
        + Feature("mid.0", 1).scale(3.0, branch="uncond")
        + Feature("up.1.2", 3).add(5.0, branch="contrast"),
        "steps": feature.add([1.0, 2.0, 0.5], steps=(1, 3))
        + Feature("up.1.2", 3).scale(0.0, steps=range(0, 1))
        + Feature("mid.0", 9).add(2.0, steps=2)
        + Feature("up.1.2", (3, 8)).scale(2.0, above=0.25)
        + Feature("mid.0", 2, source="mine").set(1.0, above=-1.0),
        "masks": feature.add(2.0, where=(0.0, 0.25, 0.5, 1.0))
        + Feature("up.1.2", 3).scale(0.5, where=levels)
        + Block("mid.0").scale(0.0, where=weights)
        + Feature("up.1.2", (1, 4)).add(3.0, where=maps)
        + Feature("mid.0", 9).scale(3.0, where="own"),
    }  # fmt: skip
    for name, edits in files.items():
        save_edits(edits, folder / f"{name}.json")
    one = {"block": "up.1.2", "op": "add", "feature": [3], "value": 2}
    write_json(folder / "one.json", one)
    write_json(
        folder / "list.json", [one, {"block": "mid.0", "op": "scale", "value": [0, 0.5], "steps": [0, 2]}]
    )


def told_edits(model):
    """What is read from each file of edits, and what the edits do to an image's latents."""
    saes = load_saes("saes")
    saes["mine"] = replace(saes["mid.0"], name="mine")
    told = {}
    for path in sorted(Path("edits").glob("*.json")):
        edits = load_edits(path)
        (latents,) = model.generate(
            "a red cat", seed=7, steps=3, guidance=2.0, height=32, width=32, output="latent",
            edits=bind(edits, saes),
        )  # fmt: skip
        told[path.stem] = {
            "edits": [told_edit(edit) for edit in edits],
            "blocks": list(edits.blocks),
            "latents": numbers(latents[:, ::6, ::6].float(), 6),
        }
    return told


def told_edit(edit: Edit):
    """Every field of an edit."""
    mask = edit.where
    return {
        "block": edit.block, "op": edit.op, "subject": edit.subject, "unit": edit.unit, "branch": edit.branch,
        "value": list(edit.value) if isinstance(edit.value, tuple) else edit.value,
        "feature": list(edit.feature),
        "direction": [len(edit.direction), sum(edit.direction), *edit.direction[:2]],
        "steps": None if edit.steps is None else list(edit.steps), "above": edit.above, "source": edit.source,
        "at": [edit.at(step) for step in range(4)], "sign": [edit.sign("cond"), edit.sign("uncond")],
        "identity": edit.identity,
        "where": None if mask is None else "own" if mask.own else numbers(mask.on(3, 5)),
        "hash": sha(canonical(edit.to_json())),
    }  # fmt: skip


def make_links():
    box = {"where": (0.0, 0.25, 0.5, 1.0)}
    levels = np.zeros((4, 4), np.float32)
    levels[1:3, 1:] = 100 / 255
    plain = Recipe("tiny", "a <b>red</b> cat, \u00e9t\u00e9", 7, 2, 0.0, 64, 64)
    full = Recipe(
        "tiny", "a red cat", 4294967295, 3, 2.5, 32, 48, "a blue dog",
        Feature("up.1.2", 3).add(2.5, unit="deviation", where=levels, steps=(0, 2))
        + Feature("mid.0", (1, 4)).scale(0.5, branch="cond", **box)
        + Edit("mid.0", "scale", 0.0)
        + Feature("mid.0", 2, source="mine").add([1.0, 2.0], branch="contrast", where="own"),
        off=frozenset({1, 3}), guard=True,
    )  # fmt: skip
    edited = replace(
        plain, prompt="a red cat", edits=Edits((Feature("mid.0", 3).add(4.0, unit="deviation"),))
    )
    recipes = {"plain": plain, "full": full, "edited": edited}
    links = {name: recipe.to_link() for name, recipe in recipes.items()}
    asked = Asked("red cat", "words", "mid.0", "1", -3.5, -0.5, True, "label score")
    queries = {
        "blocks": link("blocks"),
        "feature": link("feature", f="mid.0/3"),
        "feature, none named": link("feature"),
        "search": link("search", **Asked("red").query()),
        "search, everything": link("search", **asked.query()),
        "explore": link("explore", r=links["plain"]),
        "explore, no picture": link("explore"),
        "paint": link("paint", r=links["full"]),
        "compare": link("compare", r=links["edited"], other=links["plain"]),
        "compare with itself": link("compare", r=links["edited"]),
    }
    write_json("links.json", {"recipes": links, "queries": queries})
    return recipes, {
        "recipes": {name: recipe.to_json() for name, recipe in recipes.items()},
        "active": {name: recipe.active.to_json() for name, recipe in recipes.items()},
        "search": vars(asked),
    }


def make_pictures(recipes):
    Path("pictures").mkdir()
    words = [
        "generate",
        "--model",
        "model",
        "--prompt",
        "a red cat",
        "--seed",
        "7",
        "--steps",
        "3",
        "--guidance",
    ]
    words += ["2", "--negative", "a bird", "--size", "64", "--edits", "edits/masks.json", "--saes", "saes"]
    assert not main([*words, "--device", "cpu", "--out", "pictures/generate.png"])
    lab = open_lab("model", Path("saes"), Path("atlas"), device="cpu")
    (image,) = lab.generate([recipes["edited"]])
    Path("pictures/explorer.png").write_bytes(png_with_recipe(image, recipes["edited"].to_json()))
    words = "invert pictures/explorer.png --prompt cat --model model --out pictures/inverted.png --steps 2"
    assert not main(
        [*words.split(), "--size", "32", "--edits", "edits/one.json", "--saes", "saes", "--device", "cpu"]
    )
    return {path.stem: read_png(path) for path in sorted(Path("pictures").glob("*.png"))}


def make_experiment(model, expected):
    Path("experiment").mkdir()
    Path("experiment/sweep.toml").write_text(SWEEP)
    plan = read_plan("experiment/sweep.toml")
    rows = run_experiment(plan, "experiment/out", model=model, progress=False)
    expected["experiment"] = {
        "rows": rows,
        "files": sorted(
            p.name for kind in ("images", "rows") for p in Path("experiment/out", kind).iterdir()
        ),
        "labels": [condition.label for condition in plan.conditions],
        "prompts": [[prompt.text, dict(prompt.meta)] for prompt in plan.prompts],
        "sampling": plan.sampling,
    }
    shutil.rmtree("experiment/out/plots")
    for name in ("report.html", "rows.parquet", "summary.parquet"):
        Path("experiment/out", name).unlink(missing_ok=True)


def make_benches(model, expected):
    Path("riebench").mkdir()
    write_json("riebench/examples.json", EXAMPLES)
    settings = {
        "steps": 1, "counts": (2,), "strengths": (1.0,), "neurons": (8,), "steering": (1.0,),
        "metrics": ("pixels",),
    }  # fmt: skip
    examples = read_examples("riebench/examples.json")
    rows = bench_riebench(
        model, load_saes("saes"), examples, "riebench/out", Riebench(**settings), progress=False
    )
    expected["riebench"] = {
        "settings": {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()},
        "examples": [asdict(example) for example in examples],
        "rows": rows,
    }
    shutil.rmtree("riebench/out/images")
    for path in Path("riebench/out").glob("*.parquet"):
        path.unlink()

    turbo = unbox.load("shapes-turbo", device="cpu")
    width = turbo.block("up.1.1").in_channels
    small = BenchShapes(
        steps=1, prompts=24, blocks_tried=1, sizes=(2,), strengths=(1.0, 4.0), draws=1, trial_cases=1,
        test_cases=1, pairs=1, transported=(4,), moved=(1.0,), values=(("colour", "red"),),
    )  # fmt: skip
    held = {"up.1.1": random_sae("up.1.1", width=width, latents=2 * width, k=4)}
    bench_shapes(turbo, held, "bench-shapes", small, progress=False)
    kept = [json.loads(path.read_text()) for path in sorted(Path("bench-shapes/kept").iterdir())]
    expected["bench-shapes"] = [
        [each["key"], each["result"]] for each in kept if each["key"][0] in ("causation", "removal")
    ]
    keep = {"manifest.json", "results.json"}
    for path in Path("bench-shapes").rglob("*"):
        few = path.parent.name == "kept" and json.loads(path.read_text())["key"][0] in (
            "causation",
            "removal",
        )
        if path.is_file() and path.name not in keep and not few:
            path.unlink()


def make_demo(expected):
    plan = DemoPlan(
        model="small", guidance=0.0, prompts=12, heldout=10, latents=16, k=2, tokens=1024, features=(2,),
        strengths=(4.0,), trial=1, test=1, trial_pool=3, test_pool=3, targets=(("colour", "red"),),
    )  # fmt: skip
    found = run_demo(plan, Path("demo"), lambda line: None).findings
    report = Path("demo/report.html").read_text()
    expected["demo"] = {
        "plan": {k: v for k, v in asdict(plan).items() if v != getattr(DemoPlan(), k)},
        "pictures_shown": report.count("data:image"),
        "edits": [{k: v for k, v in edit.items() if k != "pictures"} for edit in found.edits],
        "captions": [prompt.text for prompt in found.cases.prompts],
        "readings": list(found.cases.readings),
        "saved": {p.name: load_edits(p).to_json() for p in sorted(Path("demo/edits").glob("*.json"))},
        "stages": [stage.folder.name for stage in found.stages],
        "version": version("unbox"),
    }
    keep = {*Path("demo/stages").glob("*/result.json"), *Path("demo/edits").glob("*.json")}
    for path in Path("demo").rglob("*"):
        if path.is_file() and path not in keep:
            path.unlink()


def without_empty(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def written(expected) -> str:
    """JSON with a line for each entry of two levels."""
    lines = []
    for name, part in expected.items():
        if isinstance(part, dict):
            rows = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in part.items())
            lines.append(f" {json.dumps(name)}: {{\n{rows}\n }}")
        else:
            lines.append(f" {json.dumps(name)}: {json.dumps(part, allow_nan=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def make() -> None:
    home = Path(unbox.__file__).parents[1]
    at = subprocess.run(["git", "-C", home, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert at.stdout.startswith(COMMIT), f"this runs under {COMMIT} only"
    expected = {"commit": COMMIT, "version": version("unbox")}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        model = make_model(expected)
        make_stores(model)
        make_saes(expected)
        expected["store"], expected["store-int8"] = told_store("store"), told_store("store-int8")
        make_atlas(model)
        expected["atlas"] = told_atlas(model)
        make_edits()
        expected["edits"] = told_edits(model)
        recipes, expected["links"] = make_links()
        expected["pictures"] = make_pictures(recipes)
        make_experiment(model, expected)
        make_benches(model, expected)
        make_demo(expected)
        Path("expected.json").write_text(written(expected))
        for path in list(Path("model").iterdir()):
            if path.name != "system.json":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for unwanted in ("gone-on", "small"):
            shutil.rmtree(unwanted)
        for path in Path("evaluated").iterdir():
            if path.name != "figures.json":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for lock in Path().rglob("*.lock"):
            lock.unlink()
        without_empty(Path())
        for packed in ("store", "store-int8", "atlas"):
            shutil.make_archive(packed, "zip", ".", packed)
            shutil.rmtree(packed)
        for path in sorted(Path().iterdir()):
            target = OUT / path.name
            if target.is_dir():
                shutil.rmtree(target)
            shutil.copytree(path, target) if path.is_dir() else shutil.copyfile(path, target)
        os.chdir(OUT)


if __name__ == "__main__":
    make()
