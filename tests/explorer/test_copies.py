"""Every copy that the explorer offers is run, and its picture is that of the page, to the pixel: JSON, the
PNG itself, Python, the command line, the experiment; with masks, two edits, controls, guidance, a photo."""

import json
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from unbox.cli.main import find, parse
from unbox.edit import Edit, Edits
from unbox.experiments.experiment_plan import make_plan
from unbox.experiments.sweep import run_experiment
from unbox.explorer.api import Endpoints
from unbox.explorer.image_recipe import OpenedModel, Recipe
from unbox.explorer.pages.paint_page import COPIES, generate
from unbox.explorer.session import ExplorerSession
from unbox.mask import Mask
from unbox.models.png_record import read_png

#: A painted mask: a disc with a soft edge.
ROWS, COLUMNS = np.mgrid[:32, :32]
DISC = np.clip(1.5 - np.hypot(ROWS - 9, COLUMNS - 20) / 8, 0, 1).astype(np.float32)
GUIDED = {"guidance": 3.0, "negative_prompt": "blue"}


def masked(session) -> Edits:
    one, two = session.feature("mid.0/1"), session.feature("up.1.2/3")
    return Edits((
        one.add(40.0, unit="deviation", where=DISC, steps=(0, 1)),
        two.add(-30.0, unit="deviation", where=Mask.of((0.0, 0.5, 0.5, 1.0))),
    ))  # fmt: skip


#: What a picture may be made of: its edits, and what is other than usual.
KINDS = {
    "no edits": (lambda session: Edits(), {}),
    "one edit everywhere": (lambda session: Edits((
        session.feature("mid.0/1").add(40.0, unit="deviation"),)), {}),
    "two masked edits": (masked, {}),
    "two masked edits, one off": (masked, {"off": frozenset({0})}),
    "guidance and a negative prompt": (masked, GUIDED),
    "where it fires, on one branch": (lambda session: Edits((
        session.feature("mid.0/1").scale(30.0, where=Mask.of("own"), branch="cond"),
        session.feature("up.1.2/3").set(20.0, unit="deviation", where=DISC))), {"guidance": 3.0}),
    "an op of each kind": (lambda session: Edits((
        session.feature("mid.0/2").ablate(), session.feature("up.1.2/3").swap(0.5, where=DISC),
        session.feature("mid.0/1").replace(2.0, unit="deviation", steps=(1, 2)),
        Edit("up.1.2", "scale", 0.5))), {}),
    "random features": (masked, {"draw": 3}),
}  # fmt: skip


@pytest.fixture
def opened(home) -> OpenedModel:
    return OpenedModel(f"--model {home / 'tiny'}", f"unbox.load({str(home / 'tiny')!r})")


@pytest.fixture
def shown(session, recipe, request):
    """A recipe and its picture, as Paint shows it."""
    edits, more = KINDS[request.param]
    more = dict(more)
    draw = more.pop("draw", None)
    wanted = replace(recipe, edits=edits(session), **more)
    made = generate(session, wanted, range(0) if draw is None else range(draw, draw + 1))
    assert (made.recipe.draw, made.recipe == wanted) == (draw, draw is None)
    plain = np.asarray(made.before)
    assert len(wanted.edits) == 0 or (np.asarray(made.after) != plain).any()
    return made.recipe, np.asarray(made.after)


#: One kind while a change is written.
every_kind = pytest.mark.parametrize(
    "shown",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "two masked edits")) for name in KINDS],
    indirect=True,
)


def same(image: Image.Image | Path, pixels: np.ndarray) -> None:
    found = image if isinstance(image, Image.Image) else Image.open(image)
    np.testing.assert_array_equal(np.asarray(found.convert("RGB")), pixels)


def test_no_copy_is_left_out():
    assert set(COPIES) == {"JSON", "Python", "command line", "experiment"}


@every_kind
def test_json_the_png_and_the_link(session, shown, tmp_path):
    recipe, pixels = shown
    fresh = fresh_session(session)
    copied = Recipe.from_text(COPIES["JSON"](recipe, session))
    same(fresh.generate([copied])[0], pixels)
    same(fresh_session(session).generate([Recipe.from_link(recipe.to_link())])[0], pixels)
    saved = tmp_path / "saved.png"
    with urlopen(recipe.to_png_uri(Image.fromarray(pixels))) as file:
        saved.write_bytes(file.read())
    same(saved, pixels)
    same(fresh_session(session).generate([Recipe.from_json(read_png(saved))])[0], pixels)
    answer = Endpoints(fresh).edit(recipe.to_json())
    with urlopen(answer["after"]) as file:
        (tmp_path / "after.png").write_bytes(file.read())
    same(tmp_path / "after.png", pixels)


@every_kind
def test_python(session, shown, home, opened, tmp_path, monkeypatch):
    recipe, pixels = shown
    monkeypatch.chdir(tmp_path)
    exec(recipe.to_python(str(home / "saes"), session.norms_of(recipe), opened), {})
    same(Path("image.png"), pixels)


@every_kind
def test_the_command_line(shown, home, opened, tmp_path, monkeypatch):
    recipe, pixels = shown
    monkeypatch.chdir(tmp_path)
    run_lines(recipe.to_command(str(home / "saes"), opened))
    same(Path("image.png"), pixels)


@every_kind
def test_the_experiment_has_each_edit_as_a_row(session, shown, home, opened, tmp_path):
    recipe, _ = shown
    if recipe.negative_prompt:
        assert "# without the negative prompt" in recipe.to_experiment()
        return
    if not len(recipe.active):
        return
    (tmp_path / "copy.toml").write_text(recipe.to_experiment(str(home / "saes"), opened))
    plan = make_plan(tomllib.loads((tmp_path / "copy.toml").read_text()))
    run_experiment(plan, tmp_path / "out", session.model("tiny"), progress=False)
    found = [np.asarray(Image.open(path)) for path in (tmp_path / "out" / "images").glob("*.png")]
    wanted = [recipe.plain, *(replace(recipe, edits=Edits((e,)), off=frozenset()) for e in recipe.active)]
    for image in fresh_session(session).generate(wanted):
        assert sum(np.array_equal(np.asarray(image), each) for each in found) >= 1
    assert len(found) == len(wanted)


@pytest.mark.parametrize("edited", [False, True])
def test_a_photo_is_drawn_again_by_the_command(session, recipe, home, opened, edited, tmp_path, monkeypatch):
    photo = Image.fromarray(np.stack([8 * ROWS, 8 * COLUMNS, 0 * ROWS], -1).astype(np.uint8)).resize((64, 64))
    started = replace(recipe, photo=session.photos.add(photo), edits=masked(session) if edited else Edits())
    (made,) = session.generate([started])
    monkeypatch.chdir(tmp_path)
    photo.save("photo.png")  # as the page saves it
    run_lines(started.to_command(str(home / "saes"), opened))
    same(Path("image.png"), np.asarray(made))


def run_lines(lines: str) -> None:
    """The lines of a copied command, without a shell: `echo TEXT > FILE` and `unbox ...`."""
    for line in lines.split("\n"):
        words = shlex.split(line, comments=True)
        if words[:1] == ["echo"]:
            _, text, _, file = words
            Path(file).write_text(json.dumps(json.loads(text)))
        elif words:
            assert words[0] == "unbox"
            parse(*find(words[1:])).run()


def fresh_session(session):
    """One that has no picture at hand."""
    return ExplorerSession(session.model("tiny"), session.saes)
