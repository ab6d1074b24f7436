"""Variables of the environment, read from the code: values of every kind are refused by name, or taken."""

import ast
import os
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given

from activation_store.errors import StoreError
from activation_store.shard_cache import default_folder, default_limit
from tests.doors.values import NUMBERS, TEXTS, THROW
from unbox import memory_limit
from unbox.atlas.vlm_labels import Endpoint
from unbox.cli.main import main
from unbox.errors import UnboxError
from unbox.explorer.open_session import cache
from unbox.ranks import check_meeting_place, ranks

ROOT = Path(__file__).parents[2]


def endpoint():
    Endpoint("http://localhost:8000/v1", "a model", os.environ["UNBOX_ENDPOINT_KEY"])


#: Variable -> what reads it.
READERS = {
    "RANK": ranks,
    "WORLD_SIZE": ranks,
    "LOCAL_RANK": ranks,
    "MASTER_ADDR": check_meeting_place,
    "MASTER_PORT": check_meeting_place,
    "UNBOX_MEMORY_LIMIT": memory_limit.memory_limit,
    "UNBOX_ENDPOINT_KEY": endpoint,
    "UNBOX_TRACEBACK": lambda: main(["models", "--no-such-option"]),
    "XDG_CACHE_HOME": cache,
    "UNBOX_SHARD_CACHE": default_folder,
    "UNBOX_SHARD_CACHE_GB": default_limit,
}
#: Names of libraries' and systems' own; Triton's is compared with "1" alone, when unbox.sae.gpu is imported.
OTHERS = {"GRADIO_ANALYTICS_ENABLED", "NUMBA_CACHE_DIR", "SC_PHYS_PAGES", "SC_PAGE_SIZE", "TRITON_INTERPRET"}


def variables():
    """Names like variables in modules that use the environment."""
    found = set()
    for path in [*(ROOT / "unbox").rglob("*.py"), *(ROOT / "activation_store").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        if "environ" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                name = node.value
                if ("_" in name and name.isupper() and name.isidentifier()) or name == "RANK":
                    found.add(name)
    return found


def test_every_variable_has_its_reader_here():
    assert variables() <= set(READERS) | OTHERS


@pytest.mark.parametrize("name", READERS)
def test_every_variable(name, capsys):
    usual = {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }

    @THROW
    @given(NUMBERS | TEXTS)
    def throw(value):
        try:
            text = str(value).replace("\0", "").encode("utf-8", "replace").decode()
        except ValueError:
            text = "9" * 5000
        with patch.dict(os.environ, {**usual, name: text}):
            try:
                READERS[name]()
            except (UnboxError, StoreError, SystemExit) as error:
                told = str(error) + capsys.readouterr().err
                assert name in told or name in ("UNBOX_ENDPOINT_KEY", "UNBOX_TRACEBACK")

    throw()
