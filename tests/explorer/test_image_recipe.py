"""Recipes: every way to hand them on comes back equal; whatever anybody may send is refused politely."""

import base64
import json
import shlex
import tomllib
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbox.cli.main import find, parse
from unbox.edit import Edit, Edits, Feature
from unbox.errors import FieldError, UnboxError
from unbox.explorer import limits
from unbox.explorer.generation_controls import seed_box
from unbox.explorer.image_recipe import OpenedModel, Recipe
from unbox.mask import Mask
from unbox.validation import checked

PLAIN = Recipe("shapes-turbo", "a <b>red</b> star", 7, 4, 0.0, 64, 64)
MASK = np.zeros((8, 8), np.float32)
MASK[2:5, 1:4] = 1
FULL = replace(
    PLAIN,
    negative_prompt="blue",
    edits=Feature("up.0.1", 3).add(2.5, unit="deviation", where=MASK, steps=(0, 2))
    + Feature("mid.0", (1, 4)).scale(0.5, branch="cond")
    + Edit("mid.0", "scale", 0.0),
    off=frozenset({1}),
    guard=True,
)

finite = st.floats(-limits.STRENGTH, limits.STRENGTH)
edit = st.builds(
    lambda index, value, op, box: getattr(Feature("up.0.1", index), op)(value, where=box),
    st.integers(0, 5000), finite, st.sampled_from(["add", "scale", "set"]),
    st.sampled_from([None, (0.0, 0.25, 0.5, 1.0), "own"]),
)  # fmt: skip
recipes = st.builds(
    Recipe,
    system=st.just("shapes-turbo"),
    prompt=st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), max_size=200),
    seed=st.integers(0, 2**64 - 1), steps=st.integers(1, 100), guidance=st.floats(0, 50),
    height=st.integers(4, 256).map(lambda n: 8 * n), width=st.integers(4, 256).map(lambda n: 8 * n),
    edits=st.lists(edit, max_size=5).map(lambda rows: Edits(tuple(rows))), guard=st.booleans(),
)  # fmt: skip


@given(recipes)
def test_json_and_links_come_back_equal(recipe):
    assert Recipe.from_text(json.dumps(recipe.to_json())) == recipe
    assert Recipe.from_link(recipe.to_link()) == recipe


def test_all_of_it_comes_back():
    assert Recipe.from_link(FULL.to_link()) == FULL
    assert [e.block for e in FULL.active] == ["up.0.1", "mid.0"]
    assert not len(FULL.plain.edits)


def test_a_png_is_read_by_the_command_lines_reader(tmp_path):
    from PIL import Image

    from unbox.models.png_record import png_bytes, read_png

    path = tmp_path / "x.png"
    path.write_bytes(png_bytes(Image.new("RGB", (8, 8)), FULL.to_json()))
    assert Recipe.from_json(read_png(path)) == FULL


def test_what_unbox_generate_records_is_a_recipe(tmp_path):
    record = {"model": "m", "system": "shapes-turbo", "prompt": "a star", "seed": 1, "steps": 2}
    record |= {"guidance": 0.0, "guidance_rescale": 0.0, "height": 64, "width": 64}
    record |= {"negative_prompt": None, "model_identity": "ab", "saes": {"mid.0": "cd"}, "dtype": "float16"}
    for edits in ([], None, Edits().to_json()):
        assert Recipe.from_json(record | {"edits": edits}).steps == 2
    for other in ({"guidance_rescale": 0.7}, {"strength": 0.3}, {"lora": "x"}, {"micro": {}}):
        with pytest.raises(FieldError, match=f"recipe: {next(iter(other))} = "):
            Recipe.from_json(record | other)


def test_the_command_is_one_that_unbox_reads(tmp_path, monkeypatch):
    import tyro

    from unbox.cli.generate import GenerateCommand
    from unbox.edits import load_edits

    said, echo, command = FULL.to_command("my saes/").split("\n")
    assert said.startswith("# without the guard")
    (tmp_path / "edits.json").write_text(shlex.split(echo)[1])
    assert load_edits(tmp_path / "edits.json") == FULL.active
    form = tyro.cli(GenerateCommand, args=shlex.split(command)[2:], config=(tyro.conf.FlagCreatePairsOff,))
    assert form.prompt == (FULL.prompt,)
    assert (form.seed, form.sampling.steps, form.sampling.guidance) == (7, 4, 0.0)
    assert (form.sampling.height, form.sampling.width, form.sampling.negative_prompt) == (64, 64, "blue")
    assert str(form.saes) == "my saes"
    assert "#" not in PLAIN.to_command() + replace(PLAIN, guard=True).to_command()


def test_the_experiment_is_one_that_unbox_reads():
    from unbox.experiments.experiment_plan import make_plan

    box = replace(FULL, edits=FULL.edits + Feature("up.0.1", 9).add(1.0, where=(0, 0, 0.5, 1)))
    plan = make_plan(tomllib.loads(box.to_experiment()))
    assert [p.text for p in plan.prompts] == [FULL.prompt]
    kept = [edit for condition in plan.conditions for edit in condition.edits]
    assert kept[-1] == box.active[-1]
    assert kept == list(box.active)  # painted masks, too


def test_the_python_compiles_and_holds_the_edits():
    code = FULL.to_python()
    compile(code, "recipe", "exec")
    literal = code.split("from_json(")[1].split(")\n")[0]
    assert Edits.from_json(eval(literal)) == FULL.active


def bad(**change):
    return {**PLAIN.to_json(), **change}


EDIT = {"block": "up.0.1", "op": "add", "feature": [1], "value": 1.0}
BOMB = {"shape": [4096, 4096], "dtype": "u1", "zlib": base64.b64encode(zlib.compress(bytes(10**7))).decode()}


@pytest.mark.parametrize(
    "value",
    [
        None, [], "x", 3, {}, {"prompt": "a"},
        *(bad(steps=s) for s in (0, -1, 10**9, 10**400, 2.5, float("nan"), None, "4", True)),
        *(bad(height=s) for s in (0, 33, 10**5, float("inf"), "64")),
        *(bad(seed=s) for s in (-1, 2**64, 1.5, 7.0, True, "7", None)),
        *(bad(guidance=s) for s in (-1, 1e308, float("nan"))),
        *(bad(prompt=s) for s in ("x" * 2001, "\x00", "a\x1fb", "\ud800", 7, None)),
        *(bad(edits=e) for e in ("x", 7, [7], [{}], [EDIT] * 65, [{**EDIT, "value": 1e308}],
                                 [{**EDIT, "value": float("nan")}], [{**EDIT, "feature": [-1]}],
                                 [{**EDIT, "feature": list(range(1000))}], [{**EDIT, "value": [1.0] * 10**4}],
                                 [{**EDIT, "where": BOMB}], [{**EDIT, "where": {"shape": [0, 0]}}],
                                 [{**EDIT, "where": {"box": [0, 0, 9, 9]}}], [{**EDIT, "evil": 1}],
                                 [{**EDIT, "block": "../x"}])),
        bad(off=[9]), bad(off="x"), bad(version=99), bad(unknown=1),
    ],
)  # fmt: skip
def test_recipes_that_cannot_be(value):
    with pytest.raises(UnboxError):
        Recipe.from_json(value)


@pytest.mark.parametrize("text", ["{", '{"a": NaN}', "[" * 10**5, '{"seed": 1e999}', " " * (2 << 20)])
def test_json_that_cannot_be(text):
    with pytest.raises(UnboxError):
        Recipe.from_text(text)


@pytest.mark.parametrize(
    "link",
    ["", "x", "%%%", "é", FULL.to_link()[:-9], FULL.to_link()[5:],
     base64.urlsafe_b64encode(zlib.compress(b" " * 10**8)).decode()],
)  # fmt: skip
def test_links_that_are_damaged_or_bombs(link):
    with pytest.raises(UnboxError):
        Recipe.from_link(link)


def test_masks_of_any_resolution_are_kept():
    edited = replace(PLAIN, edits=Edits((Feature("up.0.1", 3).add(1.0, where=Mask.of(MASK)),)))
    np.testing.assert_array_equal(Recipe.from_link(edited.to_link()).edits[0].where.array, MASK)


@pytest.mark.parametrize("seed", [0, 2**53 + 1, 2**64 - 1])
def test_a_page_sends_and_shows_every_digit_of_a_seed(seed):
    assert checked(limits.TypedSeed, "seed", seed_box(seed).value) == seed
    for wrong in (f"{seed}.0", f"-{seed + 1}", "1e3", "", "٣", str(2**64), "9" * 10**5, 7.5, None):
        with pytest.raises(FieldError, match=r"^seed = .*: should be "):
            checked(limits.TypedSeed, "seed", wrong)


def test_every_copy_repeats_how_the_model_was_opened():
    """A LoRA over a single file, say: by the system's name alone it would be another picture."""
    line = "--model base.safetensors --lora 'my style.safetensors'"
    opened = OpenedModel(line, "unbox.load('base.safetensors', lora='my style.safetensors')")
    recipe = replace(FULL, guard=False)
    *_, command = recipe.to_command("saes/", opened).split("\n")
    form = parse(*find(shlex.split(command)[1:]))
    assert (form.model.model, str(form.model.lora)) == ("base.safetensors", "my style.safetensors")
    assert f"model = {opened.python}" in recipe.to_python("saes/", None, opened)
    text = recipe.to_experiment("saes/", opened)
    assert tomllib.loads(text)["model"] == "base.safetensors"
    assert "# run it with --lora 'my style.safetensors'" in text
    assert "# without the negative prompt" in text
    assert "# run it" not in recipe.to_experiment()


def test_an_empty_negative_prompt_of_elsewhere_is_refused():
    """`unbox generate` encodes "" as a text; the explorer's empty field is none."""
    with pytest.raises(FieldError, match="negative_prompt = '': should be null or a text"):
        Recipe.from_json({**PLAIN.to_json(), "negative_prompt": ""})
