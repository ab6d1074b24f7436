"""`unbox models`, `unbox generate`, `unbox recipe real-size` as they are typed."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.models.tiny import tiny_refiner
from unbox.cli.main import main
from unbox.edit import Direction, Edits
from unbox.errors import UnboxError
from unbox.models import SYSTEMS
from unbox.models.hub import present
from unbox.models.png_record import read_png

SIZE = ("--height", "64", "--width", "64")
CAT = ("--system", "sdxl-turbo", "--prompt", "a cat", *SIZE)
READY = [name for name, row in SYSTEMS.items() if present(row)]


def test_models_lists_every_system(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(SYSTEMS) + 1]] == list(SYSTEMS)
    turbo = next(line for line in lines if line.startswith("sdxl-turbo "))
    assert "download 6.9 GB" in turbo or "here" in turbo
    assert turbo.endswith("random weights")


def test_models_tells_all_of_one(capsys):
    assert main(["models", "sdxl-lightning-1step"]) == 0
    page = capsys.readouterr().out
    assert "sdxl_lightning_1step_unet_x0.safetensors (5.1 GB to download)" in page
    assert "arXiv:2402.13929" in page
    assert main(["models", "--json", "novelai-v3"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["present"] is False
    assert main(["models", "novelai"]) == 2
    assert "near: novelai-v3" in capsys.readouterr().err


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image, int)


def test_generate_writes_what_it_did(tiny, tmp_path):
    call = ["generate", "--model", str(tiny), *CAT]
    assert main([*call, "--seed", "7", "--count", "2", "--out", str(tmp_path / "new" / "cat.png")]) == 0
    files = sorted((tmp_path / "new").iterdir())
    assert [file.name for file in files] == ["cat-0.png", "cat-1.png"]
    record = read_png(files[1])
    assert (record["prompt"], record["seed"], record["steps"], record["guidance"]) == ("a cat", 8, 1, 0.0)
    assert main([*call, "--seed", "8", "--out", str(tmp_path / "again.png")]) == 0
    first, again = pixels_of(files[1]), pixels_of(tmp_path / "again.png")
    assert first.shape == (64, 64, 3)
    assert np.abs(first - again).max() <= 1


def test_generate_records_conditions_and_weights(tiny, tmp_path):
    out = tmp_path / "cat.png"
    call = ["generate", "--model", str(tiny), *CAT, "--seed", "7", "--out", str(out)]
    assert main(call) == 0
    plain = pixels_of(out)
    assert {"micro", "unet", "strength"}.isdisjoint(read_png(out))
    call += ["--overwrite"]
    assert main([*call, "--original-size", "8", "16", "--crop", "0", "4", "--unet", str(tiny)]) == 0
    record = read_png(out)
    assert (record["unet"], record["micro"]["original"], record["micro"]["crop"]) == (
        str(tiny),
        [8, 16],
        [0, 4],
    )
    assert np.abs(pixels_of(out) - plain).max() > 0


def test_generate_keeps_what_is_there_and_refuses_other_images(tiny, tmp_path, capsys):
    call = ["generate", "--model", str(tiny), *CAT, "--count", "3", "--batch-size", "2"]
    call += ["--out", str(tmp_path / "cat.png"), "--seed"]
    assert main([*call, "7"]) == 0
    whole = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    (tmp_path / "cat-1.png").unlink()
    kept = (tmp_path / "cat-0.png").stat().st_mtime_ns
    assert main([*call, "7"]) == 0
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == whole
    assert (tmp_path / "cat-0.png").stat().st_mtime_ns == kept
    assert "cat-0.png is there already" in capsys.readouterr().out
    (tmp_path / "cat-0.png").unlink()
    assert main([*call, "6"]) == 2
    said = capsys.readouterr()
    assert "cat-1.png holds an image of another seed (8, not 7): give another --out, or --over" in said.err
    assert not (tmp_path / "cat-0.png").exists()  # refused before anything is drawn
    (tmp_path / "cat-2.png").write_text("mine")
    assert main([*call, "7"]) == 2
    assert "cat-2.png holds something else than an image of unbox" in capsys.readouterr().err
    assert main([*call, "7", "--overwrite"]) == 0
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == whole


def test_generate_from_pictures_with_weighted_words(tmp_path):
    picture, mask = tmp_path / "picture.png", tmp_path / "mask.png"
    Image.new("RGB", (64, 64), (200, 30, 30)).save(picture)
    Image.fromarray(np.kron([[255, 0], [0, 0]], np.ones((32, 32))).astype(np.uint8)).save(mask)
    call = ["generate", "--model", "shapes-turbo", "--prompt", "a (small:1.3) square", "--seed", "1"]
    call += [
        "--image",
        str(picture),
        "--mask",
        str(mask),
        "--prompt-weights",
        "--out",
        str(tmp_path / "one.png"),
    ]
    assert main(call) == 0
    record = read_png(tmp_path / "one.png")
    assert (record["strength"], record["mask"], record["prompt_weights"]) == (1.0, str(mask), True)
    assert "long_prompts" not in record
    from unbox.models import load

    (expected,) = load("shapes-turbo").generate(
        "a (small:1.3) square", seed=1, prompt_weights=True, image=Image.open(picture), mask=Image.open(mask)
    )
    assert np.array_equal(pixels_of(tmp_path / "one.png"), np.asarray(expected, int))
    assert main([*call[:-1], str(tmp_path / "one.png"), "--strength", "0.5"]) == 2  # another image is there


def test_generate_applies_edits(tiny, tmp_path):
    edits = Edits.of(Direction("up.0.1", np.full(128, 3.0).tolist()).add(1.0))
    (tmp_path / "edits.json").write_text(json.dumps(edits.to_json()))
    call = ["generate", "--model", str(tiny), *CAT, "--seed", "1", "--out"]
    assert main([*call, str(tmp_path / "plain.png")]) == 0
    assert main([*call, str(tmp_path / "edited.png"), "--edits", str(tmp_path / "edits.json")]) == 0
    plain, edited = (pixels_of(tmp_path / f"{name}.png") for name in ("plain", "edited"))
    assert np.abs(plain - edited).max() > 3
    assert read_png(tmp_path / "plain.png")["edits"] is None
    assert Edits.from_json(read_png(tmp_path / "edited.png")["edits"]) == edits


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--saes", "somewhere"], "--saes has no use without --edits"),
        (["--edits", "nowhere.json"], "no file of edits nowhere.json"),
        (["--height", "64", "--aspect", "16:9"], "--aspect, or --height and --width, not both"),
        (["--aspect", "wide"], "--aspect = 'wide': should be WIDTH:HEIGHT like 16:9"),
        (["--out", "image.jpg"], "written as .png"),
        (["--steps", "1"], "begin at timestep 1 of 1000"),
    ],
)
def test_generate_mistakes(tiny, options, message, capsys):
    call = ["generate", "--model", str(tiny), "--prompt", "a cat", *SIZE]
    if "--aspect" in options:
        call = call[: -len(SIZE)]
    assert main([*call, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in READY if name.startswith("shapes")])
def test_generate_with_each_shapes_system(name, tmp_path):
    out = tmp_path / "shape.png"
    call = ["generate", "--model", name, "--prompt", "a large solid red circle", "--seed", "1"]
    assert main([*call, "--out", str(out)]) == 0
    assert pixels_of(out).shape == (128, 128, 3)
    assert pixels_of(out).std() > 5


def test_a_refined_photo_is_upright_and_of_the_size_asked_for(tmp_path):
    """Its record says the size that it has; without one it is the picture's own."""
    tiny_refiner(tmp_path / "refiner")
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (96, 64)).save(tmp_path / "photo.jpg", exif=exif)
    call = [
        "generate",
        "--model",
        str(tmp_path / "refiner"),
        "--prompt",
        "a cat",
        "--seed",
        "1",
        "--steps",
        "4",
    ]
    call += ["--image", str(tmp_path / "photo.jpg"), "--out"]
    for name, size, options in (("own", (64, 96), []), ("cut", (64, 64), ["--height", "64"])):
        assert main([*call, str(tmp_path / f"{name}.png"), *options]) == 0
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size == size
        record = read_png(tmp_path / f"{name}.png")
        assert (record["width"], record["height"]) == size


def test_a_png_without_a_record(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "plain.png")
    with pytest.raises(UnboxError, match="no record"):
        read_png(tmp_path / "plain.png")
