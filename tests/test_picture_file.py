"""Pictures and masks that people bring: read as they look, or one line that names the file."""

import io
import itertools
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unbox.errors import UnboxError
from unbox.mask import Mask
from unbox.memory_limit import limited
from unbox.models.png_record import KEYWORD, png_bytes, read_png
from unbox.picture_file import grey_levels, opened, read_mask, read_picture, upright_rgb

#: (y, x) grey levels of no symmetry, and (y, x, 3) colours.
GREY = (np.arange(6 * 4).reshape(6, 4) * 10).astype(np.uint8)
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1)
#: EXIF orientation -> how a viewer turns what is stored.
TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


def file(image, format="PNG", **options):
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def rgba(colour, alpha):
    """Pixels of one colour (3,) or of colours (y, x, 3), and their opacity (y, x)."""
    return Image.fromarray(np.dstack([np.broadcast_to(colour, (*alpha.shape, 3)).astype(np.uint8), alpha]))


def grey16():
    return (np.arange(24).reshape(6, 4) * 2501).astype(np.uint16)


@pytest.mark.parametrize(("orientation", "format"), list(itertools.product(TURNS, ["PNG", "WEBP", "TIFF"])))
def test_pictures_and_masks_are_upright(tmp_path, orientation, format):
    exif = Image.Exif()
    exif[0x112] = orientation
    options = {"exif": exif, "lossless": True} if format == "WEBP" else {"exif": exif}
    (tmp_path / "p").write_bytes(file(Image.fromarray(RGB), format, **options))
    assert np.array_equal(read_picture(tmp_path / "p"), TURNS[orientation](RGB))
    (tmp_path / "m").write_bytes(file(Image.fromarray(np.dstack([GREY] * 3)), format, **options))
    assert np.array_equal(read_mask(tmp_path / "m"), TURNS[orientation](GREY).astype(np.float32) / 255)


def test_a_photo_of_a_phone_is_upright(tmp_path):
    exif, wide = Image.Exif(), Image.new("RGB", (64, 32))
    exif[0x112] = 6
    wide.paste((255, 0, 0), (0, 0, 32, 32))
    wide.save(tmp_path / "p.jpg", exif=exif)
    picture = read_picture(tmp_path / "p.jpg")
    assert picture.size == (32, 64)
    assert picture.getpixel((16, 8))[0] > 200 > 50 > picture.getpixel((16, 56))[0]
    assert Mask.of(Image.open(tmp_path / "p.jpg")).shape == (64, 32)


HALF = np.full((2, 2), 128, np.uint8)
#: What is in the file -> the colour of its first pixel as it looks.
LOOKS = {
    "transparent": (file(rgba((255, 0, 0), np.zeros((2, 2), np.uint8))), (255, 255, 255)),
    "half transparent": (file(rgba((255, 0, 0), HALF)), (255, 127, 127)),
    "opaque": (file(rgba((1, 2, 3), np.full((2, 2), 255, np.uint8))), (1, 2, 3)),
    "grey and alpha": (file(rgba((0, 0, 0), HALF).convert("LA")), (127, 127, 127)),
    "palette": (file(Image.new("RGB", (2, 2), (9, 8, 7)).quantize(4)), (9, 8, 7)),
    "palette, transparent": (file(Image.new("P", (2, 2), 0), transparency=0), (255, 255, 255)),
    "colour key": (file(Image.new("RGB", (2, 2), (9, 8, 7)), transparency=(9, 8, 7)), (255, 255, 255)),
    "grey": (file(Image.new("L", (2, 2), 77)), (77, 77, 77)),
    "black and white": (file(Image.new("1", (2, 2), 1)), (255, 255, 255)),
    "16 bits": (file(Image.fromarray(np.full((2, 2), 257 * 40, np.uint16))), (40, 40, 40)),
    "16 bits, PGM": (b"P5 2 2 65535\n" + b"\x28\x28" * 4, (40, 40, 40)),
    "CMYK": (file(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
    "one frame of GIF": (file(Image.new("P", (2, 2), 0), "GIF"), (0, 0, 0)),
}


@pytest.mark.parametrize("kind", LOOKS)
def test_every_kind_of_picture_is_what_it_looks_like(tmp_path, kind):
    content, colour = LOOKS[kind]
    (tmp_path / "p").write_bytes(content)
    picture = read_picture(tmp_path / "p")
    assert (picture.mode, picture.size, picture.getpixel((0, 0))) == ("RGB", (2, 2), colour)


ALPHA = GREY
#: A mask's file -> its levels.
MASKS = {
    "opacity on white": (file(rgba((255, 255, 255), ALPHA)), ALPHA / 255),
    "opacity on black": (file(rgba((0, 0, 0), ALPHA)), ALPHA / 255),
    "opacity on red": (file(rgba((200, 30, 40), ALPHA)), ALPHA / 255),
    "opacity, hidden colours": (
        file(rgba(np.where(ALPHA[..., None] > 0, 255, RGB), ALPHA)),
        ALPHA / 255,
    ),
    "white on nothing": (
        file(rgba(np.where(ALPHA[..., None] > 99, 255, 0), 255 * (ALPHA > 99).astype(np.uint8))),
        ALPHA > 99,
    ),
    "nothing": (file(rgba((255, 255, 255), np.zeros((6, 4), np.uint8))), np.zeros((6, 4))),
    "opaque greys": (file(rgba(np.dstack([GREY] * 3), np.full((6, 4), 255, np.uint8))), GREY / 255),
    "opaque white": (file(rgba((255, 255, 255), np.full((6, 4), 255, np.uint8))), np.ones((6, 4))),
    "opaque black": (file(rgba((0, 0, 0), np.full((6, 4), 255, np.uint8))), np.zeros((6, 4))),
    "greys, partly transparent": (
        file(rgba(np.dstack([GREY] * 3), np.where(GREY > 99, 255, 0).astype(np.uint8))),
        np.where(GREY > 99, GREY, 0) / 255,
    ),
    "grey": (file(Image.fromarray(GREY)), GREY / 255),
    "16 bits": (file(Image.fromarray(grey16())), grey16() / 65535),
    "16 bits, TIFF": (file(Image.fromarray(grey16()), "TIFF"), grey16() / 65535),
    "1 bit": (file(Image.fromarray(GREY > 99)), GREY > 99),
    "palette": (file(Image.fromarray(GREY).quantize(256)), GREY / 255),
}  # fmt: skip


@pytest.mark.parametrize("kind", MASKS)
def test_every_kind_of_mask(tmp_path, kind):
    content, levels = MASKS[kind]
    (tmp_path / "m.png").write_bytes(content)
    mask = read_mask(tmp_path / "m.png")
    assert mask.dtype == np.float32
    assert mask.shape == levels.shape
    assert np.abs(mask - levels).max() < 1e-6
    with opened(content) as image:
        assert np.array_equal(Mask.of(image).array, Mask.of(mask).array)


def test_colours_that_a_canvas_rounds_by_opacity_are_one_colour():
    alpha = np.arange(1, 25, dtype=np.uint8).reshape(6, 4)
    product = np.rint(np.multiply.outer(alpha / 255, (200, 30, 40)))
    image = rgba(np.clip(np.rint(product / (alpha[..., None] / 255)), 0, 255), alpha)
    assert np.array_equal(grey_levels(image), alpha.astype(np.float32) / 255)


PNG = file(Image.fromarray(RGB))
#: A file -> what is said of it.
BAD = {
    "text": (b"not a picture", r"p\.png is not a picture in PNG, JPEG, .* whatever its name says"),
    "empty": (b"", r"p\.png is not a picture"),
    "SVG": (b"<svg/>", r"p\.png is not a picture"),
    "cut off": (PNG[:-30], r"p\.png cannot be read as a picture .*: it is damaged or cut off"),
    "cut off, JPEG": (file(Image.new("RGB", (64, 64)), "JPEG")[:300], r"p\.png cannot be read as a picture"),
    "header alone": (PNG[:20], r"p\.png cannot be read as a picture"),
    "no pixels": (PNG[:16] + b"\0\0\0\0" + PNG[20:], r"p\.png "),
    "damaged": (PNG[:45] + b"\xff\xff\xff" + PNG[48:], r"p\.png cannot be read as a picture"),
    "animated": (
        file(Image.new("L", (2, 2), 0), "GIF", save_all=True, append_images=[Image.new("L", (2, 2), 9)]),
        r"p\.png holds several frames or pages: save the one that is meant",
    ),
    "pages": (
        file(Image.new("L", (2, 2)), "TIFF", save_all=True, append_images=[Image.new("L", (2, 2), 9)]),
        r"p\.png holds several frames or pages",
    ),
    "32 bits": (file(Image.new("F", (2, 2)), "TIFF"), r"p\.png: a picture with levels of 32 bits \(mode F\)"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_picture_is_named(tmp_path, kind):
    content, message = BAD[kind]
    (tmp_path / "p.png").write_bytes(content)
    for read in (read_picture, read_mask):
        with pytest.raises(UnboxError, match=message) as caught:
            read(tmp_path / "p.png")
        assert "\n" not in str(caught.value)


def test_no_file_and_a_folder_are_named(tmp_path):
    for path, message in ((tmp_path / "none.png", "there is no file"), (tmp_path, "is a folder")):
        with pytest.raises(UnboxError, match=message):
            read_picture(path)


def test_a_picture_is_refused_by_its_header_and_allowed_by_the_option(tmp_path):
    """40,000 x 40,000 pixels in 200 kB: 26 GB while it is decoded."""
    header = png_bytes(Image.new("L", (1, 1)), {})
    large = header[:16] + (40_000).to_bytes(4, "big") * 2 + header[24:29]
    (tmp_path / "p.png").write_bytes(large + zlib.crc32(large[12:]).to_bytes(4, "big") + header[33:])
    with (
        limited("2GB"),
        pytest.raises(UnboxError, match=r"40000 x 40000 pixels in .*p\.png would take 25.6 GB"),
    ):
        read_picture(tmp_path / "p.png")
    (tmp_path / "q.png").write_bytes(file(Image.new("1", (1000, 1000))))
    with limited("15MB"), pytest.raises(UnboxError, match="would take 16 MB of memory; the limit is 15 MB"):
        read_mask(tmp_path / "q.png")
    with limited("17MB"):
        assert read_mask(tmp_path / "q.png").shape == (1000, 1000)


def chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def recorded(*chunks):
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def compressed(text):
    return chunk(b"zTXt", KEYWORD.encode() + b"\0\0" + zlib.compress(text))


#: A PNG's file -> what is said of its record.
RECORDS = {
    "none": (PNG, "holds no record"),
    "JPEG": (file(Image.fromarray(RGB), "JPEG"), "is not a picture in PNG, whatever its name says"),
    "no JSON": (recorded(chunk(b"tEXt", b"unbox\0{")), "the record in .* is not valid JSON"),
    "a list": (recorded(chunk(b"tEXt", b"unbox\0[1]")), "is not a JSON object"),
    "NaN": (recorded(chunk(b"tEXt", b'unbox\0{"a": NaN}')), "is not valid JSON: NaN"),
    "nested": (recorded(compressed(b"[" * 200_000)), "nested too deeply"),
    "inflates": (recorded(compressed(b" " * (2 << 20))), "cannot be read as a picture"),
    "not UTF-8": (recorded(chunk(b"iTXt", b"unbox\0\0\0\0\0\xff\xfe")), "holds no record"),
    "cut off": (recorded(chunk(b"tEXt", b"unbox\0{}"))[:70], "cannot be read as a picture"),
}  # fmt: skip


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_that_is_none_is_named(tmp_path, kind):
    content, message = RECORDS[kind]
    (tmp_path / "p.png").write_bytes(content)
    with pytest.raises(UnboxError, match=message) as caught:
        read_png(tmp_path / "p.png")
    assert "p.png" in str(caught.value)


SAMPLES = [PNG, *(content for content, _ in (*LOOKS.values(), *MASKS.values()))]


@given(st.sampled_from(SAMPLES), st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3)), max_size=3))
def test_damaged_bytes_are_a_picture_or_a_mistake_in_a_line(content, changes):
    for at, new in changes:
        content = content[: at % len(content)] + new + content[at % len(content) + len(new) :]
    for read in (upright_rgb, grey_levels):
        error = "the picture"
        try:
            with warnings.catch_warnings(action="ignore"), limited("64MB"), opened(content) as image:
                read(image)
        except UnboxError as raised:
            error = str(raised)
        assert error.startswith("the picture")
        assert len(error.splitlines()) == 1
