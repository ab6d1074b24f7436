"""Prompts of data sets over HTTP, from a Hub on this machine: which bytes are fetched for which rows."""

import json
import os
import subprocess
import sys

import pyarrow
import pytest
from pyarrow import parquet

from tests.cli.hub_server import hub_of, serve

READ = """
import json, sys
from unbox.capture import read_prompts
from unbox.errors import UnboxError

source, first, stop = sys.argv[1], *map(int, sys.argv[2:4])
try:
    prompts = read_prompts(source)
    print(json.dumps([prompt.text for prompt in prompts.parts([range(first, stop)])]))
except UnboxError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture
def hub(tmp_path):
    """A data set of two files of 4,000 rows each, in groups of 500 rows of some 100 kB, on a Hub."""
    kind = hub_of(tmp_path / "hub")
    folder = kind.root / "datasets" / "me" / "pairs" / "data"
    folder.mkdir(parents=True)
    for number in range(2):
        rows = range(4000 * number, 4000 * (number + 1))
        table = pyarrow.table(
            {"prompt": [f"dog {n}" for n in rows], "noise": [os.urandom(200) for _ in rows]}
        )
        parquet.write_table(table, folder / f"train-0000{number}-of-00002.parquet", row_group_size=500)
    return kind


def read(hub, tmp_path, source, first, stop):
    """What another process reads, which finds no other Hub and has nothing of an earlier one."""
    settings = {
        "HF_ENDPOINT": serve(hub.root, hub), "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    command = [sys.executable, "-c", READ, source, str(first), str(stop)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings}, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_rows_come_from_their_groups(hub, tmp_path):
    assert read(hub, tmp_path, "hub:me/pairs", 4100, 4103) == ["dog 4100", "dog 4101", "dog 4102"]
    files = sorted((hub.root / "datasets" / "me" / "pairs" / "data").iterdir())
    fetched = [sum(hub.given[str(path.relative_to(hub.root))]) for path in files]
    assert fetched[0] <= 65_536  # its footer, which says how many rows it has; Parquet reads as much at least
    assert fetched[1] <= 2 * 65_536 + files[1].stat().st_size // 8 < files[1].stat().st_size / 2


def test_a_data_set_that_is_not_there_is_named(hub, tmp_path):
    said = read(hub, tmp_path, "hub:me/other", 0, 3)
    assert said.startswith("the data set me/other (split train) cannot be read: ")
    assert "Repository Not Found" in said
    assert "\n" not in said
