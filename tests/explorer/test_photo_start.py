"""Pictures that start from a photo: the inversion's own, to the pixel; copies; what is refused."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from unbox.edit import Edits
from unbox.edits import invert
from unbox.edits.inversion import psnr
from unbox.errors import FieldError, UnboxError
from unbox.explorer.image_recipe import OpenedModel, Recipe
from unbox.explorer.photo_start import decoded_photo


@pytest.fixture
def photo() -> Image.Image:
    rows, columns = np.mgrid[:64, :64]
    return Image.fromarray(np.stack([4 * rows, 4 * columns, 0 * rows], -1).astype(np.uint8))


@pytest.fixture
def started(session, recipe, photo) -> Recipe:
    return replace(recipe, photo=session.photos.add(photo))


def test_the_picture_is_the_inversions(session, started, photo):
    edits = Edits((session.feature("up.1.2/1").add(300.0, unit="deviation"),))
    inversion = invert(session.model("tiny"), photo, started.prompt, steps=2, guidance=0.0, seed=7)
    before, after = session.generate([started, replace(started, edits=edits)])
    np.testing.assert_array_equal(np.asarray(before), np.asarray(inversion.draw()))
    np.testing.assert_array_equal(np.asarray(after), np.asarray(inversion.draw(edits)))
    assert np.asarray(before).tolist() != np.asarray(after).tolist()
    assert session.fidelity(started)["run"] == pytest.approx(psnr(photo, before))
    assert session.fidelity(replace(started, photo="")) is None
    recorded = session.record(started)
    np.testing.assert_array_equal(np.asarray(recorded.image), np.asarray(before))
    assert recorded.steps == (0, 1)
    assert session.generate([replace(started, photo="")])[0] is not before


def test_python_draws_the_same_picture(session, started, home, tmp_path, monkeypatch, photo):
    edited = replace(started, edits=Edits((session.feature("up.1.2/1").add(300.0, unit="deviation"),)))
    opened = OpenedModel(f"--model {home / 'tiny'}", f"unbox.load({str(home / 'tiny')!r})")
    photo.save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    exec(edited.to_python(str(home / "saes"), opened=opened), {})
    (made,) = session.generate([edited])
    np.testing.assert_array_equal(np.asarray(Image.open("image.png")), np.asarray(made))
    assert edited.to_command(str(home / "saes"), opened).count("unbox invert photo.png") == 1
    assert "starts from noise" in edited.to_experiment()


def test_a_recipe_keeps_its_photos_name(started):
    assert Recipe.from_link(started.to_link()) == started
    for wrong in ("x", "../../etc/passwd", "0" * 31, "A" * 32):
        with pytest.raises(FieldError, match="photo"):
            replace(started, photo=wrong)


def test_what_cannot_start_a_picture_is_refused(session, recipe, started):
    with pytest.raises(UnboxError, match="is not here"):
        session.generate([replace(recipe, photo="0" * 32)])
    with pytest.raises(UnboxError, match="no negative prompt"):
        session.generate([replace(started, negative_prompt="dark", guidance=2.0)])

    def sent(image: Image.Image, kind: str = "PNG") -> str:
        stream = io.BytesIO()
        image.save(stream, kind)
        return base64.b64encode(stream.getvalue()).decode()

    image = Image.new("RGB", (64, 64), "red")
    assert decoded_photo(sent(image, "JPEG"), 64, 64).size == (64, 64)
    for text in (sent(Image.new("1", (6000, 6000))), sent(image, "GIF"), "!!", "AAAA", "A" * (9 << 20)):
        with pytest.raises(FieldError, match="photo"):
            decoded_photo(text, 64, 64)
