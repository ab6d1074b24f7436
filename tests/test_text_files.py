"""TOML and JSON that people write: read, or one line that names the file and the place in it."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbox.errors import UnboxError
from unbox.text_files import TOML_LIMIT, lines_of, read_json_file, read_text, read_toml_file

BOM = "\ufeff".encode()
READ = {"a.toml": read_toml_file, "a.json": read_json_file}

#: Name, bytes -> the value.
GOOD = [
    ("a.toml", b"", {}),
    ("a.toml", BOM + b"a = 1\r\nb = [1, 2]\r\n", {"a": 1, "b": [1, 2]}),
    ("a.toml", 'name = "Käse"'.encode(), {"name": "Käse"}),
    ("a.json", BOM + b'{"a": [1, null]}', {"a": [1, None]}),
    ("a.json", b"7", 7),
]

#: Name, bytes -> what is said of it.
BAD = [
    ("a.toml", b"a = \n", r"a.toml is not valid TOML: .*\(at line 1, column 5\)"),
    ("a.toml", b"a = 1\na = 2\n", "a.toml is not valid TOML: .*line 2"),
    ("a.toml", b"a = 1\nb.c = nan", "a.toml: b.c = nan is not a finite number"),
    ("a.toml", b"[[sae]]\nlr = [1.0, inf]", "a.toml: sae.lr = inf is not a finite number"),
    ("a.toml", b"a = " + b"[" * 100_000, "a.toml is not valid TOML: "),
    ("a.toml", b"a = " + b"9" * 5000, "a.toml is not valid TOML: "),
    ("a.toml", b"# \n" * (TOML_LIMIT // 3 + 1), "a.toml is over 4,194,304 bytes"),
    ("a.toml", "a = 1".encode("utf-16"), "a.toml is in UTF-16"),
    ("a.toml", b"# x\na = 'K\xe4se'", r"line 2 of .*a.toml is not in UTF-8 \(byte 0xe4\)"),
    ("a.json", b"", "a.json is not valid JSON: Expecting value"),
    ("a.json", b'{\n"a": 1,\n}', "a.json is not valid JSON: .*line [23] column"),
    ("a.json", b'{"a": 1, "b": 2, "a": 3}', "a.json is not valid JSON: the key 'a' is repeated"),
    ("a.json", b'{"a": NaN}', "a.json is not valid JSON: NaN is not a number of JSON"),
    ("a.json", b"[-Infinity]", "a.json is not valid JSON: -Infinity"),
    ("a.json", b"[1e999]", "a.json is not valid JSON: 1e999 is too large"),
    ("a.json", b"[" * 200_000, "a.json is not valid JSON: nested too deeply"),
    ("a.json", b'{"a": ' * 200_000, "a.json is not valid JSON: nested too deeply"),
    ("a.json", "{}".encode("utf-16"), "a.json is in UTF-16"),
    ("a.json", b'{"a": "\xff"}', "line 1 of .*a.json is not in UTF-8"),
    ("a.json", b"PK\x03\x04\xff", r"a.json is compressed \(zip\)"),
]


@pytest.mark.parametrize(("name", "content", "value"), GOOD)
def test_files_are_read(tmp_path, name, content, value):
    (tmp_path / name).write_bytes(content)
    assert READ[name](tmp_path / name) == value


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_a_mistake_is_a_line_that_names_the_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnboxError, match=message) as caught:
        READ[name](tmp_path / name)
    assert "\n" not in str(caught.value)


@given(st.sampled_from(sorted(READ)), st.binary(max_size=100) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_value_or_a_mistake_in_a_line(tmp_path_factory, name, content):
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content)
    error = ""
    try:
        READ[name](path)
    except UnboxError as raised:
        error = str(raised)
    assert not error or name in error
    assert len(error.splitlines()) <= 1


def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "none", "there is no file"),
        (tmp_path / "pipe", "read only once"),
    ):
        with pytest.raises(UnboxError, match=message):
            read_text(path, 10)


def test_lines_end_as_files_end_them(tmp_path):
    (tmp_path / "a").write_bytes(BOM + "a\u2028b\r\nc\rd\n\ne".encode())
    assert list(lines_of(tmp_path / "a")) == ["a\u2028b\r\n", "c\r", "d\n", "\n", "e"]
