"""Every reader of a file or of a text from outside: whole files with a value changed, files cut off, files
with bytes changed, and noise. A result, or one UnboxError (StoreError of the store) that names the file."""

import ast
import json
import shutil
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activation_store import Store, StoreError
from tests.doors.values import JSON_VALUES, THROW, bounded_memory
from tests.training.data.pictures import png, tar_of
from unbox.errors import UnboxError

ROOT = Path(__file__).parents[2]
#: Calls that take bytes apart.
RAW = {
    "read_json", "parse_json", "read_object", "loads", "load_file", "safe_open", "read_toml_file",
    "read_json_file", "parse_json_text", "read_png", "lines_of",
}  # fmt: skip


def prompts(path):
    from unbox.capture import read_prompts

    return list(read_prompts(str(path)))


def edits(path):
    from unbox.edits import load_edits

    return load_edits(path)


def plan(path):
    from unbox.sae.plan import read_toml

    return read_toml(path)


def images(path):
    from unbox.online.online_images import read_images

    return read_images(path)


def experiment(path):
    from unbox.experiments.experiment_plan import read_plan

    return read_plan(path)


def riebench(path):
    from unbox.experiments.riebench.examples import read_examples

    return read_examples(path)


def autoencoder(path):
    from unbox.sae import SAE

    return SAE.load(path.parent)


def published(path):
    from unbox.sae.interop import import_all

    return import_all(path.parent)


def atlas(path):
    from unbox.atlas import Atlas, Filter

    found = Atlas.open(path.parent)
    facts = found.search("", Filter(), limit=3)
    return [found.labels(each.id) for each in facts]


def png_record(path):
    from unbox.models.png_record import read_png

    return read_png(path)


def picture(path):
    from unbox.picture_file import read_picture

    return read_picture(path)


def mask(path):
    from unbox.picture_file import read_mask

    return read_mask(path)


def link(path):
    from unbox.explorer.image_recipe import Recipe

    return Recipe.from_link(path.read_bytes().decode("latin-1"))


def recipe(path):
    from unbox.explorer.image_recipe import Recipe

    return Recipe.from_text(path.read_bytes().decode("utf-8", "replace"))


def system(path):
    from unbox.models.systems import folder_system

    return folder_system(path.parent)


def store(path):
    opened = Store.open(path.parent)
    return len(opened), opened.samples[0] if len(opened) else None


def finished(path):
    from unbox.result_cache import cached

    return cached(path, lambda: None)


def figures(path):
    from unbox.explorer.figure_files import read_figures

    return read_figures(path)


def strengths(path):
    from unbox.experiments.feature_strengths import read_strengths

    return read_strengths(path)


def collection(path):
    from unbox.explorer.collection import FeatureCollection

    return FeatureCollection.from_text(path.read_text(encoding="utf-8", errors="replace"))


def results(path):
    from unbox.explorer.figure_files import read_bench_results

    return read_bench_results(path)


def comparison(path):
    from unbox.explorer.figure_files import read_comparison

    return read_comparison(path)


def run_record(path):
    from unbox.run_folder import run_folder

    with run_folder(path.parent, "experiment") as folder:
        folder.claim({"model": "a", "seed": 1})


def metrics(path):
    from unbox.sae.metric_trackers import rewind

    return rewind(path, {"mid.0": 100})


def record_of_hub(path):
    from unbox.capture.hub import hub_record

    return hub_record(path.parent)


def pipeline_index(path):
    from unbox.models.hub import whole

    return whole(path.parent)


def recipe_file(path):
    from unbox.recipes.sdxl.sdxl_settings import read_recipe

    return read_recipe(path)


def method_file(path):
    from unbox.recipes.systems.method_settings import LightningSettings, read_method

    return read_method(path, LightningSettings)


def image_folder(path):
    """A training set: its table of captions, read."""
    from unbox.training.data.image_folders import ImageFolder

    (path.parent / "a.png").write_bytes(png(1))
    return list(ImageFolder(path.parent, caption="x").images())


def tar(path):
    from unbox.training.data.webdataset_tars import WebDatasetTars

    source = WebDatasetTars((str(path),))
    return [source.sides(image) for image in source.images()]


def latent_cache(path):
    from unbox.training.data.aspect_buckets import AspectBuckets
    from unbox.training.data.latent_cache import LatentCache

    return LatentCache(path.parent, AspectBuckets(((64, 64),))).record()


def image_index(path):
    from unbox.training.data.image_index import ImageIndex

    return list(ImageIndex(path).rows())


def latent_shard(path):
    import numpy as np

    from unbox.training.data.aspect_buckets import AspectBuckets
    from unbox.training.data.latent_cache import LatentCache

    cache = LatentCache(path.parent.parent, AspectBuckets(((64, 64),)))
    return cache.examples(0, np.array([0]))


def losses(path):
    from unbox.recipes.sdxl.train_sdxl import LossLog

    LossLog(path)(100, {"unet": 0.5})


def label_answer(path):
    """What an endpoint answers, read from the file in its place."""
    from unbox.atlas.vlm_labels import Endpoint

    with patch("urllib.request.urlopen", lambda *_given, **_options: open(path, "rb")):
        return Endpoint("http://localhost:8000/v1", "a model").ask("a text", [])


def shard_of(path):
    """A shard of one cached example."""
    import torch
    from safetensors.torch import save_file

    shapes = {"latents": (4, 8, 8), "context": (7, 16), "pooled": (16,)}
    tensors = {name: torch.ones(1, *shape, dtype=torch.float16) for name, shape in shapes.items()}
    sizes, digests = torch.ones(1, 6, dtype=torch.int32), torch.ones(1, 16, dtype=torch.uint8)
    save_file({**tensors, "sizes": sizes, "digests": digests}, path)


#: Name -> (file, how it is read, the file of an example below the examples' folder, or its text).
READERS = {
    "prompts.txt": (prompts, "a red cat\n\na blue dog, small\n"),
    "prompts.csv": (prompts, 'prompt,seed\n"a cat, red",3\na dog,4\n'),
    "prompts.jsonl": (prompts, '{"prompt": "a cat", "seed": 3}\n{"prompt": "a dog"}\n'),
    "edits.json": (edits, '[{"block": "mid.0", "op": "add", "value": [1, 2], "feature": [3], "where": '
                          '{"box": [0, 0, 0.5, 1]}, "steps": [0, 2], "branch": "cond"}]'),
    "images.toml": (images, '[images]\nprompts = "shapes"\nlimit = 8\nmodel = "m"\nimage_seed = 3\n'),
    "plan.toml": (plan, 'tokens = 512\naux = 0.1\n[[sae]]\nblock = ["mid.0"]\nk = [2, 4]\nlatents = 16\n'),
    "experiment.toml": (
        experiment,
        'model = "m"\nprompts = ["a cat"]\nseeds = [0, 1]\nsteps = 1\nmetrics = ["pixels"]\n[[edit]]\n'
        'block = "mid.0"\nop = "scale"\nvalue = 0.0\ngrid = { value = [0, 2] }\n',
    ),
    "riebench.json": (
        riebench,
        '[{"id": "1", "editing_type_id": "1", "original_prompt": "a [cat]", "editing_prompt": "a [dog]"}]',
    ),
    "recipe.json": (recipe, '{"system": "shapes-turbo", "prompt": "a", "seed": 3, "steps": 1, "edits": []}'),
    "link": (link, None),
    "record.png": (png_record, "image.png"),
    "picture.png": (picture, "image.png"),
    "mask.png": (mask, "image.png"),
    "config.json": (autoencoder, "saes/mid.0/"),
    "sae.safetensors": (autoencoder, "saes/mid.0/"),
    "atlas.json": (atlas, "atlas/"),
    "store.json": (store, "store/"),
    "figures.json": (figures, '{"mid.0": {"fvu": 0.1, "l0": 3.0, "groups": [{"step": 0, "l0": 2.5}]}}'),
    "results.json": (results, '{"meaning": [{"block": "mid.0", "method": "features", "auroc": 0.9}]}'),
    "comparison/figures.json": (
        comparison,
        '{"systems": {"a": {}, "b": {}}, "first": "a", "images": 8, "held_out": 2, "blocks": {"mid.0": '
        '{"explained": {"joint": {"a": {"fvu": 0.1, "low": 0, "high": 1}, "b": {"fvu": 0.1, "low": 0, '
        '"high": 1}}}, "changes": {"random split": {"listed": 0, "largest_t": 1, "features": 3, "splits": '
        '2}, "b": {"gained": 0, "lost": 0, "gained_family": 0, "lost_family": 0, "largest_t": 1}}, '
        '"features": {"b": [{"index": 1, "first": 0, "other": 0, "change": 0, "low": 0, "high": 0, "t": 0, '
        '"q": 1, "p_family": 1, "images": [0]}]}}}}',
    ),
    "strengths.json": (
        strengths,
        '{"usual": 0.5, "features": {"mid.0/1": {"strength": 4.5, "factor": "colour", "value": "red"}}}',
    ),
    "collection.json": (collection, '{"name": "reds", "features": ["mid.0/1", "up.0.1/17"], "note": "n"}'),
    "run.json": (run_record, '{"command": "experiment", "parts": {"model": "a", "seed": 1}}'),
    "metrics.jsonl": (metrics, '{"sae": "mid.0", "tokens": 10}\n{"sae": "mid.0", "tokens": 200}\n'),
    "model_index.json": (pipeline_index, '{"_class_name": "A", "unet": ["diffusers", "B"], "vae": [null]}'),
    "answer.json": (label_answer, '{"choices": [{"message": {"content": "a red circle"}}]}'),
    "result.json": (finished, '{"result": 1, "seconds": 2.0}'),
    "unbox_system.json": (system, None),
    "recipe.toml": (recipe_file, 'lora_rank = 8\nsnr_gamma = 5.0\n[images]\ndata = "shapes"\nlimit = 7\n'),
    "method.toml": (method_file, 'student_steps = [8, 4]\n[images]\ndata = "shapes"\nlimit = 7\n'),
    "metadata.jsonl": (image_folder, '{"file_name": "a.png", "text": "a cat"}\n'),
    "images.tar": (tar, lambda path: tar_of(path, {"1.png": png(1), "1.json": b'{"caption": "a cat"}'})),
    "cache.json": (latent_cache, '{"version": 1, "made_of": {"VAE": "a"}, "counts": [3], "images": "ab"}'),
    "index.jsonl": (
        image_index,
        '{"key": "a.png", "caption": "a", "size": 9, "stamp": 3, "height": 8, "width": 8, "place": [1]}\n',
    ),
    "64x64/000000.safetensors": (latent_shard, lambda path: shard_of(path)),
    "losses.jsonl": (losses, '{"step": 50, "loss": 0.3}\n{"step": 100, "loss": 0.2}\n'),
    "hub.json": (record_of_hub, '{"repo": "a/b", "commit": "0123abcd", "digest": "89ef"}'),
}  # fmt: skip


def prepared(name, made, folder):
    """The path of a whole file of a reader, with what belongs beside it."""
    from unbox.explorer.image_recipe import Recipe
    from unbox.models.system_table import SYSTEMS

    example, path = READERS[name][1], folder / name
    path.parent.mkdir(exist_ok=True)
    if callable(example):
        example(path)
    elif example is None and name == "link":
        path.write_text(Recipe.from_json({"system": "a", "prompt": "b", "seed": 1}).to_link())
    elif example is None:
        path = SYSTEMS["shapes-turbo"].save(folder)
    elif example.endswith("/"):
        shutil.copytree(made / example, folder, dirs_exist_ok=True)
        (path,) = folder.rglob(name)
    elif example.endswith(".png"):
        shutil.copy(made / example, path)
    else:
        path.write_text(example)
    return path


@st.composite
def changed(draw, data):
    """A file that is cut off, has bytes changed, another value somewhere in its JSON, or is noise."""
    kind = draw(st.sampled_from(["cut", "bytes", "value", "value", "value", "noise", "before"]))
    if kind == "cut":
        return data[: draw(st.integers(0, len(data)))]
    if kind == "bytes":
        found = bytearray(data)
        for _ in range(draw(st.integers(1, 4))):
            found[draw(st.integers(0, len(found) - 1))] = draw(st.integers(0, 255))
        return bytes(found)
    if kind == "before":
        return draw(st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b" ", b"[" * 20_000])) + data
    if kind == "value" and (whole := _json(data)) is not None:
        return json.dumps(_with(draw, whole, draw(JSON_VALUES))).encode("utf-8", "surrogatepass")
    return draw(st.binary(max_size=200))


def _json(data):
    try:
        return json.loads(data)
    except ValueError:
        return None


def _with(draw, whole, value):
    """A JSON value with one of its parts replaced, or one more key."""
    if not isinstance(whole, dict | list) or not whole or draw(st.integers(0, 3)) == 0:
        return value
    if isinstance(whole, list):
        at = draw(st.integers(0, len(whole) - 1))
        return [*whole[:at], _with(draw, whole[at], value), *whole[at + 1 :]]
    key = draw(st.sampled_from([*sorted(whole), "unknown"]))
    return {**whole, key: _with(draw, whole[key], value) if key in whole else value}


@pytest.mark.parametrize("name", READERS)
def test_every_reader(name, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = prepared(name, made, tmp_path)
    read, data = READERS[name][0], path.read_bytes()
    read(path)

    @THROW
    @given(changed(data))
    def throw(found):
        path.unlink(missing_ok=True)
        path.write_bytes(found)
        try:
            with bounded_memory():
                read(path)
        except (UnboxError, StoreError) as error:
            text = str(error)
            assert "\n" not in text
            assert 0 < len(text) < 1500

    throw()


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in READERS
        if name not in ("link", "recipe.json", "result.json", "answer.json", "losses.jsonl")
    ],
)
def test_what_is_no_file(name, made, tmp_path):
    """A folder in its place, and nothing in its place, are told as mistakes too."""
    path = prepared(name, made, tmp_path)
    for there in (False, True):
        path.unlink() if path.is_file() else path.rmdir()
        if there:
            path.mkdir()
        with suppress(UnboxError, StoreError, OSError):
            READERS[name][0](path)
        path.mkdir(exist_ok=True)


#: Modules that take bytes apart -> the reader above that passes through them.
THROUGH = {
    "atlas.atlas_files": "atlas.json",
    "capture.hub": "hub.json",
    "capture.prompt_rows": "prompts.txt",
    "edits.edit_files": "edits.json",
    "experiments.experiment_plan": "experiment.toml",
    "experiments.riebench.examples": "riebench.json",
    "explorer.packed_json": "recipe.json",
    "models.png_record": "record.png",
    "models.systems": "unbox_system.json",
    "sae.plan": "plan.toml",
    "sae.sae_folder": "config.json",
    "online.online_images": "images.toml",
    "result_cache": "result.json",
    "text_files": "edits.json",
    "atlas.build": "atlas.json",
    "atlas.given_labels": "atlas.json",
    "atlas.vlm_labels": "answer.json",
    "explorer.figure_files": "figures.json",
    "models.hub": "model_index.json",
    "run_folder": "run.json",
    "sae.metric_trackers": "metrics.jsonl",
    "sae.safetensors_io": "sae.safetensors",
    "recipes.sdxl.sdxl_settings": "recipe.toml",
    "recipes.sdxl.train_sdxl": "losses.jsonl",
    "recipes.systems.method_settings": "method.toml",
    "training.data.image_index": "index.jsonl",
    "training.data.latent_cache": "cache.json",
    "training.data.webdataset_tars": "images.tar",
}
#: Modules that take apart nothing from outside.
OWN = {
    "ground_truth.bench.erasure_benchmark": "SAEs that the process which started it has sent",
    "ground_truth.bench.measurements": "SAEs that the process which started it has sent",
    "experiments.sweep": "JSON that it has just written",
    "model_identity": "JSON that it has just written",
    "installed_versions": "unbox's own pyproject.toml",
    "models.load": "files of a pipeline, which diffusers reads too; its mistakes are tried in tests/models",
    "models.unet_file": "tensors by safetensors; mistakes in it are tried in tests/models",
    "models.weight_files": "names and tensors by safetensors and torch; mistakes are tried in tests/models",
    "recipes.shapes.networks": "what the tokenizers library has just given",
    "recipes.shapes.whole_recipe": "the stage before, in a folder that the recipe holds",
    "recipes.shapes.vae_stage": "the stage before, in a folder that the recipe holds",
    "recipes.systems.smaller_lora": "a LoRA that a recipe has left, when the package's are made",
    "shapes.detector": "bundled weights",
    "shapes.factor_critics": "bundled weights",
    "shapes.free_captions": "the package's own wordings",
    "training.loop": "its own state, checked by the class CheckpointState",
}


def raw_readers():
    """Modules of unbox that call one of RAW."""
    found = set()
    for path in (ROOT / "unbox").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in RAW:
                found.add(".".join(path.relative_to(ROOT / "unbox").with_suffix("").parts))
    return found


def test_every_module_that_reads_has_its_reader_here():
    found = raw_readers()
    assert found - {*THROUGH, *OWN} == set()
    assert set(OWN) <= found, "what reads no more needs no reason"
    assert set(THROUGH.values()) <= set(READERS)
