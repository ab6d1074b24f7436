"""Every cell of the grid is a line that the commands take."""

from pathlib import Path

import pytest

from benchmarks.recipes_grid import Cell
from unbox.cli.idle_options import refuse_idle
from unbox.cli.main import find, parse
from unbox.text_files import read_toml_file

GRID = read_toml_file(Path(__file__).parents[3] / "examples" / "recipes" / "grid.toml")


@pytest.mark.parametrize("row", GRID["cell"], ids=lambda row: row["name"])
def test_a_cells_line_is_taken(row, tmp_path):
    words = Cell(row["name"], row["line"], 2).words(GRID["model"], GRID["common"], tmp_path)
    command, rest = find(words)
    form = parse(command, rest)
    refuse_idle(command.name, rest, form)
    assert form.settings.seed == 2
