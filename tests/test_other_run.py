"""The table "Another run in an old folder" of docs/reliability.md, cell by cell: a run, and in its folder one
with another input, which is refused by name or gives what a fresh folder gives."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig, get_peft_model_state_dict

from activation_store import StoreError
from tests.atlas.planted import planted_sae, planted_store
from tests.edits.dictionaries import random_sae
from tests.models.tiny import tiny_pipeline
from tests.sae.test_sae_identity import CHANGES
from tests.sae.worlds import noise
from tests.training.data.pictures import folder_of
from unbox.atlas import Atlas, AtlasPlan, build
from unbox.capture import collect
from unbox.capture.add_blocks import add_blocks
from unbox.capture.collect_settings import CollectOptions
from unbox.capture.hub import pull
from unbox.cli.main import main
from unbox.cli.recipe import RecipeShapesCommand
from unbox.errors import UnboxError
from unbox.experiments.diff.compared_stores import DrawnSystems
from unbox.experiments.diff.diff_settings import DiffSettings, read_systems
from unbox.experiments.diff.run_diff import DiffRun, run_diff
from unbox.experiments.experiment_plan import make_plan
from unbox.experiments.riebench import run_riebench
from unbox.experiments.riebench.examples import read_examples
from unbox.experiments.riebench.riebench_settings import RiebenchSettings
from unbox.experiments.sweep import run_experiment
from unbox.ground_truth.bench import benchmark, erasure_benchmark
from unbox.ground_truth.bench.bench_settings import BenchSettings
from unbox.ground_truth.bench.erasure_settings import ErasureSettings
from unbox.ground_truth.demo.demo_plan import DemoPlan
from unbox.ground_truth.demo.run_demo import run as run_demo
from unbox.models import Model, load
from unbox.online import OnlineImages, train_online
from unbox.recipes.sdxl.sdxl_settings import SdxlSettings, TrainingImages
from unbox.recipes.sdxl.train_sdxl import train_sdxl
from unbox.recipes.shapes import run_stage
from unbox.recipes.shapes.recipe_settings import RecipeSizes
from unbox.recipes.systems.lightning import LIGHTNING
from unbox.recipes.systems.method_settings import LightningSettings
from unbox.recipes.systems.run_method import train_method
from unbox.sae import SAE, Plan, Spec, train
from unbox.shapes.detector import Detector

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
#: Commands whose cells take a second; the others are run in the slow tier.
FAST = {"train", "sae export", "recipe shapes", "store pull"}


def table() -> list[tuple[str, str, str]]:
    """(command, input, what is done) of each cell that says something."""
    lines = PAGE.read_text(encoding="utf-8").partition("## Another run in an old folder")[2]
    lines = lines.partition("\n## ")[0].splitlines()
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")
    ]
    (_, *inputs), _, *cells = rows
    return [(row[0], name, cell) for row in cells for name, cell in zip(inputs, row[1:], strict=True) if cell]


# The tiny model's tokenizer takes a word of the Shapes world apart; its captions may be over its length.
pytestmark = pytest.mark.filterwarnings("ignore:.*longer than the 77 tokens:UserWarning")

CELLS = [pytest.param(*cell, marks=[] if cell[0] in FAST else [pytest.mark.slow]) for cell in table()]
SIZE = {"height": 32, "width": 32}


class Command(NamedTuple):
    """A command on small inputs: what it gives in a folder, what it is given, and other values of that."""

    run: Callable[..., Any]
    given: dict[str, Any]
    others: dict[str, list[tuple[dict[str, Any], str]]]
    """Column -> changed inputs, and what a refusal says of each."""


class World:
    """What the commands are run on, each made once."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.sae = random_sae("mid.0", width=128, latents=32, k=4)

    def model(self, name: str, seed: int) -> Model:
        folder = self.home / name
        if not folder.exists():
            tiny_pipeline(folder, seed=seed, timestep_spacing="trailing")
        return load(str(folder), device="cpu")

    @cached_property
    def one(self) -> Model:
        return self.model("one", 0)

    @cached_property
    def two(self) -> Model:
        return self.model("two", 5)

    @cached_property
    def adapted(self) -> Model:
        """The first one with a LoRA."""
        model, config = (
            self.model("one", 0),
            LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False),
        )
        model.unet.add_adapter(config, "lora")
        return model

    def saved(self, sae: SAE) -> str:
        """A folder of an SAE's."""
        folder = self.home / "saes" / sae.identity
        if not folder.exists():
            sae.save(folder / "mid.0")
        return str(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


def models(world: World, told: str = "model was one") -> dict[str, list[tuple[dict[str, Any], str]]]:
    return {"model": [({"model": world.two}, told)], "LoRA": [({"model": world.adapted}, "model was one")]}


def experiment(world: World) -> Command:
    def run(out, model, prompts, seeds, steps, sae, value):
        edit = {"block": "mid.0", "feature": 3, "op": "add", "unit": "mean", "value": value, "control": 1}
        data = {"model": "x", "prompts": prompts, "seeds": seeds, "steps": steps, "guidance": 0.0, **SIZE}
        plan = make_plan({**data, "saes": world.saved(sae), "metrics": ["pixels"], "edit": [edit]})
        return run_experiment(plan, out, model, progress=False)

    given = {
        "model": world.one,
        "prompts": ["a cat"],
        "seeds": [0],
        "steps": 1,
        "sae": world.sae,
        "value": 9.0,
    }
    return Command(run, given, {
        **models(world),
        "prompts": [({"prompts": ["a dog"]}, ""), ({"prompts": ["a dog", "a cat"]}, "")],
        "seed": [({"seeds": [1]}, "")],
        "steps": [({"steps": 2}, "")],
        "SAE": [({"sae": change(world.sae)}, "") for name, change in CHANGES.items()
                if name not in ("stats", "block")]  # without them no edit of this kind can be made
                + [({"sae": times(world.sae, 10)}, "")],
        "options": [({"value": 3.0}, "")],
    })  # fmt: skip


def times(sae: SAE, factor: float) -> SAE:
    assert sae.stats is not None
    return replace(sae, stats=replace(sae.stats, mean_active=sae.stats.mean_active * factor))


def riebench(world: World) -> Command:
    settings = RiebenchSettings(
        steps=1, counts=(4,), strengths=(1.0,), neurons=(), steering=(), metrics=("pixels",), seed=4
    )

    def run(out, model, prompt, sae, settings):
        data = {"id": "1", "editing_type_id": "1", "original_prompt": "a [cat]", "editing_prompt": prompt}
        (world.home / "data.json").write_text(json.dumps([data]))
        examples = read_examples(world.home / "data.json")
        return run_riebench.bench_riebench(model, {"mid.0": sae}, examples, out, settings, progress=False)

    given = {"model": world.one, "prompt": "a [dog]", "sae": world.sae, "settings": settings}
    return Command(run, given, {
        **models(world),
        "prompts": [({"prompt": "a [bird]"}, "example 1 was ")],
        "seed": [({"settings": replace(settings, seed=5)}, "settings seed was 4, is 5")],
        "steps": [({"settings": replace(settings, steps=2)}, "settings steps was 1, is 2")],
        "SAE": [({"sae": CHANGES[name](world.sae)}, "saes mid.0 was") for name in CHANGES if name != "block"],
        "options": [({"settings": replace(settings, counts=(2,))}, "settings counts was [4], is [2]")],
    })  # fmt: skip


class Stopped(Exception):
    pass


def diff(world: World) -> Command:
    small = DiffSettings(
        blocks=("mid.0",), latents=24, k=2, tokens=1000, rows=64, flips=20, splits=2, held_out=0.4, steps=1,
        guidance=0.0, **SIZE,
    )  # fmt: skip

    def run(out, model, prompts, settings, put=None):
        if put is not None:
            folder = out / "saes" / "joint" / "mid.0"
            put(SAE.load(folder)).save(folder, overwrite=True)
        systems = read_systems(("one", "two"))
        models = {"one": world.one, "two": model}
        source = DrawnSystems(systems, lambda system: models[system.title], prompts)
        return run_diff(DiffRun(source, settings, progress=False), out)

    prompts = [f"a cat {i}" for i in range(12)]
    given = {"model": world.two, "prompts": prompts, "settings": small}
    return Command(run, given, {
        "model": [({"model": world.one}, "model two was two")],
        "LoRA": [({"model": world.adapted}, "model two was two")],
        "prompts": [({"prompts": prompts[1:]}, "prompts was 12 prompts (")],
        "seed": [({"settings": replace(small, seed=1)}, "seed was 0, is 1")],
        "steps": [({"settings": replace(small, steps=2)}, "steps was 1, is 2")],
        "SAE": [({"put": lambda sae: times(sae, 10)}, "SAEs joint mid.0 was")],
        "options": [
            ({"settings": replace(small, k=3)}, "k was 2, is 3"),
            ({"settings": replace(small, flips=30)}, "flips was 20, is 30"),
        ],
    })  # fmt: skip


def bench_shapes(world: World) -> Command:
    small = BenchSettings(
        captions=24, blocks_tried=1, sizes=(2,), strengths=(1.0,), draws=1, trial_cases=1, test_cases=1,
        pairs=1, transported=(8,), moved=(1.0,), values=(("colour", "red"),),
    )  # fmt: skip

    def run(out, model, sae, settings):
        return benchmark.bench_shapes(model, {"mid.0": sae}, out, settings, progress=False)

    given = {"model": world.one, "sae": world.sae, "settings": small}
    return Command(run, given, {
        **models(world),
        "prompts": [({"settings": replace(small, captions=16)}, "prompts was 24, is 16")],
        "seed": [({"settings": replace(small, seed=1)}, "seed was 0, is 1")],
        "steps": [({"settings": replace(small, steps=2)}, "steps was 1, is 2")],
        "SAE": [({"sae": times(world.sae, 10)}, "")],
        "options": [({"settings": replace(small, strengths=(2.0,))}, "")],
    })  # fmt: skip


def bench_erasure(world: World) -> Command:
    small = ErasureSettings(
        captions=24, blocks_tried=1, percentiles=(50.0,), multipliers=(-1.0,), sizes=(2,), steered=(1.0,),
        negative_guidance=(2.0,), draws=1, trial_cases=1, test_cases=1, values=(("colour", "red"),),
    )  # fmt: skip

    def run(out, model, sae, settings):
        critic = Detector.load()
        return erasure_benchmark.bench_erasure(model, {"mid.0": sae}, out, critic, settings, progress=False)

    given = {"model": world.one, "sae": world.sae, "settings": small}
    return Command(run, given, {
        **models(world),
        "prompts": [({"settings": replace(small, captions=16)}, "captions was 24, is 16")],
        "seed": [({"settings": replace(small, seed=1)}, "seed was 0, is 1")],
        "steps": [({"settings": replace(small, steps=2)}, "steps was 1, is 2")],
        "SAE": [({"sae": times(world.sae, 10)}, "")],
        "options": [({"settings": replace(small, multipliers=(-2.0,))}, "")],
    })  # fmt: skip


def demo(world: World) -> Command:
    plan = DemoPlan(
        guidance=0, captions=24, held_out_captions=20, latents=16, k=2, tokens=4096, sizes=(2,),
        strengths=(4.0,), trial_cases=1, test_cases=2, trial_pool=8, test_pool=8, values=(("colour", "red"),),
    )  # fmt: skip

    def run(out, model, plan, put=None):
        if put is not None:
            (folder,) = out.glob("stages/train-*/saes/mid.0")
            put(SAE.load(folder)).save(folder, overwrite=True)
        found = run_demo(model, plan, out, say=lambda line: None).findings
        saved = {path.name: path.read_text() for path in sorted((out / "edits").iterdir())}
        return found.blocks, found.edits, found.factors if hasattr(found, "factors") else None, saved

    return Command(run, {"model": world.one, "plan": plan}, {
        "model": [({"model": world.two}, "")],
        "prompts": [({"plan": replace(plan, captions=32)}, "")],
        "seed": [({"plan": replace(plan, seed=1)}, "")],
        "steps": [({"plan": replace(plan, steps=2)}, "")],
        "SAE": [({"put": lambda sae: times(sae, 10)}, "mid.0 was")],
        "options": [({"plan": replace(plan, values=(("colour", "blue"),))}, "")],
    })  # fmt: skip


def atlas(world: World) -> Command:
    small = AtlasPlan(
        top=2, random=2, intervals=2, per_interval=1, decoys=1, caption_images=4, probes=4, places=64
    )
    store, other = (planted_store(world.home / f"planted-{n}", n) for n in (16, 12))
    sae = planted_sae("mid.0")

    def run(out, model, store, sae, plan):
        opened = Atlas.open(build(store, {"mid.0": sae}, out, plan=plan, model=model, progress=False))
        features = opened.search(limit=1000, order="index")
        told = [[asdict(each) for each in opened.related(f.id, "neighbours")] for f in features]
        return opened.index, [asdict(f) for f in features], told

    given = {"model": None, "store": store, "sae": sae, "plan": small}
    return Command(run, given, {
        "model": [({"model": world.one}, "")],
        "seed": [({"plan": replace(small, seed=1)}, "")],
        "SAE": [({"sae": CHANGES[name](sae)}, "") for name in ("W_dec", "k", "threshold", "stats.max")],
        "store": [({"store": other}, "")],
        "options": [({"plan": replace(small, top=3)}, "")],
    })  # fmt: skip


def evaluate(world: World) -> Command:
    given = {"model": "one", "saes": world.saved(world.sae), "store": "acts", "options": ()}
    assert world.two.source
    acts(world, "acts", ["a cat", "a dog"])
    acts(world, "acts-2", ["a cat", "a boat"])
    layers = get_peft_model_state_dict(world.adapted.unet, adapter_name="lora")
    StableDiffusionXLPipeline.save_lora_weights(world.home / "lora", unet_lora_layers=layers)

    def run(out, model, saes, store, options):
        lora = ("--lora", str(world.home / "lora")) if model == "lora" else ()
        place = world.home / ("one" if model == "lora" else model)
        words = ["evaluate", "--saes", saes, "--store", str(world.home / store), "--out", str(out), *options]
        words += ["--images", "1", "--model", str(place), *lora, "--model-mismatch", "allow"]
        if main(words) != 0:
            raise UnboxError(world.error())

    changed = [world.saved(CHANGES[name](world.sae)) for name in ("k", "stats.mean_active", "update_std")]
    return Command(run, given, {
        "model": [({"model": "two"}, "model was")],
        "LoRA": [({"model": "lora"}, "model was")],
        "SAE": [({"saes": folder}, "saes mid.0 was") for folder in changed],
        "store": [({"store": "acts-2"}, "store was")],
        "options": [({"options": ("--limit", "20")}, "limit was none, is 20")],
    })  # fmt: skip


def training(world: World) -> Command:
    def run(out, seed, k, rows, put=None):
        if put is not None:
            (folder,) = (path.parent for path in out.glob("*/sae.safetensors"))
            put(SAE.load(folder)).save(folder, overwrite=True)
        train(rows, out, [Spec(k=k, latents=24)], tokens=1000, batch_size=100, seed=seed, progress=False)

    return Command(run, {"seed": 0, "k": 2, "rows": noise()}, {
        "seed": [({"seed": 1}, "other seed")],
        "SAE": [({"put": lambda sae: replace(sae, k=3)}, "k is 3, the run's 2")],
        "store": [({"rows": noise(seed=9)}, "other rows")],
        "options": [({"k": 3}, "other saes")],
    })  # fmt: skip


def online(world: World) -> Command:
    images = OnlineImages(steps=1, guidance=0.0, image_batch=2, buffer="1MB", **SIZE)

    def run(out, model, prompts, images, k, put=None):
        if put is not None:
            (folder,) = (path.parent for path in out.glob("*/sae.safetensors"))
            put(SAE.load(folder)).save(folder, overwrite=True)
        plan = Plan(saes=(Spec("mid.0", k, 24),), batch_size=16)
        train_online(model, prompts, out, plan, images, held_out=0.2, progress=False)

    prompts = ["a cat", "a dog", "a cow", "a boat", "a car"]
    given = {"model": world.one, "prompts": prompts, "images": images, "k": 2}
    return Command(run, given, {
        **models(world),
        "prompts": [({"prompts": prompts[:4]}, "prompts was 5 prompts (")],
        "seed": [({"images": replace(images, image_seed=1)}, "image_seed was 0, is 1")],
        "steps": [({"images": replace(images, steps=2)}, "steps was 1, is 2")],
        "SAE": [({"put": lambda sae: replace(sae, k=3)}, "k is 3, the run's 2")],
        "options": [({"k": 3}, "other saes"), ({"images": replace(images, buffer="2MB")}, "buffer was")],
    })  # fmt: skip


def acts(world: World, name: str, prompts: list[str]) -> str:
    """A store of the first model's, made once."""
    if not (world.home / name).exists():
        options = {"blocks": ("mid.0",), "steps": 1, "guidance": 0.0, **SIZE}
        collect(world.one, prompts, world.home / name, thumbnail=None, progress=False, **options)
    return str(world.home / name)


def add(world: World) -> Command:
    """Blocks added to a store, of which a run before has made all."""

    def run(out, model, blocks):
        if not out.exists():
            shutil.copytree(acts(world, "acts", ["a cat", "a dog"]), out)
        return add_blocks(model, out, CollectOptions(blocks=blocks, progress=False)).blocks

    return Command(run, {"model": world.one, "blocks": ("up.0.1",)}, {
        "model": [({"model": world.two}, "model weights text_encoder was")],
        "LoRA": [({"model": world.adapted}, "model weights unet was")],
        "options": [({"blocks": ("down.2.1", "up.0.1")}, "up.0.1 was added to")],
    })  # fmt: skip


def pulled(world: World) -> Command:
    """Of a store at a URL; of one on the Hub it is the same."""

    def run(out, store):
        try:
            return pull(f"file://{store}", out).digest
        except StoreError as error:
            raise UnboxError(str(error)) from None

    store, other = (
        acts(world, name, prompts)
        for name, prompts in (("acts", ["a cat", "a dog"]), ("acts-2", ["a cat", "a boat"]))
    )
    return Command(run, {"store": store}, {"store": [({"store": other}, "has another shard")]})


def export(world: World) -> Command:
    def run(out, sae):
        words = ["sae", "export", world.saved(sae), "--out", str(out), "--format", "sdxl-unbox"]
        if main(words) != 0:
            raise UnboxError(world.error())

    changed = [CHANGES["W_dec"](world.sae), replace(world.sae, b_lat=world.sae.b_lat + 1)]
    changes = [({"sae": sae}, "exists already and differs") for sae in changed]
    return Command(run, {"sae": world.sae}, {"SAE": changes})


def shapes_recipe(world: World) -> Command:
    def run(out, order, sizes):
        RecipeShapesCommand(out, stages=("base",), order=order, sizes=sizes).run()

    return Command(run, {"order": "words", "sizes": RecipeSizes()}, {"options": [
        ({"order": "words-frozen"}, "order was words, is words-frozen"),
        ({"sizes": RecipeSizes(scenes=99)}, "sizes scenes was 120000, is 99"),
    ]})  # fmt: skip


def sdxl_recipe(world: World) -> Command:
    def data(name, captions):
        return folder_of(world.home / name, dict(zip("ab", captions, strict=True)))

    def run(out, model, data, seed, rank):
        options = {"max_train_steps": 1, "mixed_precision": "no", "lora_rank": rank, "seed": seed}
        train_sdxl(model(), TrainingImages(data=str(data)), SdxlSettings(**options), out, progress=False)

    given = {
        "model": lambda: world.model("one", 0),
        "data": data("pictures", ("a cat", "a dog")),
        "seed": 0,
        "rank": 2,
    }
    return Command(run, given, {
        "model": [({"model": lambda: world.model("two", 5)}, "model was one")],
        "prompts": [({"data": data("others", ("a cat", "a boat"))}, "b.png was 'a dog', is 'a boat'")],
        "seed": [({"seed": 1}, "seed was 0, is 1")],
        "options": [({"rank": 3}, "lora_rank was 2, is 3")],
    })  # fmt: skip


def method_recipe(world: World) -> Command:
    """One of the methods, which are runs of one class."""

    def data(name, captions):
        return folder_of(world.home / name, dict(zip("ab", captions, strict=True)))

    def run(out, model, data, seed, guidance):
        options = {"teacher_steps": 2, "student_steps": (1,), "guidance": guidance, "seed": seed}
        settings = LightningSettings(max_train_steps=1, mixed_precision="no", lora_rank=2, **options)
        train_method(LIGHTNING, model(), TrainingImages(data=str(data)), settings, out, progress=False)

    given = {
        "model": lambda: world.model("one", 0),
        "data": data("pictures", ("a cat", "a dog")),
        "seed": 0,
        "guidance": 1.0,
    }
    return Command(run, given, {
        "model": [({"model": lambda: world.model("two", 5)}, "model was one")],
        "prompts": [({"data": data("others", ("a cat", "a boat"))}, "b.png was 'a dog', is 'a boat'")],
        "seed": [({"seed": 1}, "seed was 0, is 1")],
        "options": [({"guidance": 3.0}, "guidance was 1.0, is 3.0")],
    })  # fmt: skip


COMMANDS = {
    "diff": diff,
    "experiment": experiment,
    "bench riebench": riebench,
    "bench shapes": bench_shapes,
    "bench erasure": bench_erasure,
    "demo": demo,
    "atlas": atlas,
    "evaluate": evaluate,
    "train": training,
    "train --prompts": online,
    "store add-blocks": add,
    "store pull": pulled,
    "sae export": export,
    "recipe shapes": shapes_recipe,
    "recipe sdxl": sdxl_recipe,
    "recipe lightning": method_recipe,
}


@pytest.mark.usefixtures("own_accelerator")
@pytest.mark.parametrize(("name", "column", "done"), CELLS)
def test_a_cell(name, column, done, world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        world, "error", lambda: capsys.readouterr().err.strip().splitlines()[-1], raising=False
    )
    monkeypatch.setattr(run_stage, "make_models", lambda made, stages: iter(()))
    if name == "bench shapes" and done == "refused":  # by the time that it draws it has been refused
        monkeypatch.setattr(benchmark, "prepare", stop)
    if name == "bench erasure" and done == "refused":
        monkeypatch.setattr(erasure_benchmark, "_prepared", stop)
    command = COMMANDS[name](world)
    start(command, tmp_path / "old")
    for change, told in command.others[column]:
        given = {**command.given, **change}
        if done == "refused":
            before = contents(tmp_path / "old", "put" in change)
            with pytest.raises(UnboxError, match=re.escape(told)) as refused:
                command.run(tmp_path / "old", **given)
            assert "\n" not in str(refused.value)
            assert contents(tmp_path / "old", "put" in change) == before
        else:
            assert done == "anew"
            fresh = tmp_path / f"fresh-{len(list(tmp_path.iterdir()))}"
            made = command.run(fresh, **given)
            assert command.run(tmp_path / "old", **given) == made
            assert command.run(tmp_path / "old", **command.given) == start(command, tmp_path / "again")


def stop(*given):
    raise Stopped


def start(command: Command, out: Path) -> Any:
    try:
        return command.run(out, **command.given)
    except Stopped:
        return None


def contents(folder: Path, put: bool) -> dict[str, bytes]:
    """The bytes of every file; not where the test itself puts one there."""
    files = (path for path in folder.rglob("*") if path.is_file() and not put)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_table_is_of_these_commands():
    assert {name for name, _, _ in table()} == set(COMMANDS)
