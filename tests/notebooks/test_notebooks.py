"""Every notebook runs from top to bottom, and is the same as the script it is paired with."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


def test_there_are_notebooks():
    assert "01_first_edit" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_pair_agrees(name):
    script, notebook = jupytext.read(FOLDER / f"{name}.py"), nbformat.read(FOLDER / f"{name}.ipynb", 4)
    cells = [[(cell.cell_type, cell.source) for cell in book.cells] for book in (script, notebook)]
    assert cells[0] == cells[1], f"run `make notebooks`: notebooks/{name}.ipynb is not of notebooks/{name}.py"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
# The kernel is another process: what its sockets warn of is not about the notebook.
@pytest.mark.filterwarnings("ignore")
def test_it_runs(name, tmp_path):
    book = jupytext.read(FOLDER / f"{name}.py")
    NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    assert not [out for cell in book.cells for out in cell.get("outputs", []) if out.output_type == "error"]
