"""Experiments reach a world by the names that its critic registers, never by import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from unbox.errors import UnboxError
from unbox.experiments.critics import critics, critics_by_place
from unbox.prompt import Prompt

ROOT = Path(__file__).parents[2]


def test_no_world_is_imported_by_name():
    """Read from the source: neither as an import nor as the name of a module in a string."""
    for path in [p for room in ("experiments", "explorer") for p in (ROOT / "unbox" / room).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
            above = ("unbox.shapes", *(["unbox.ground_truth"] if "experiments" in path.parts else []))
            worlds = [n for n in names if n.startswith(above)]
            assert not worlds, f"{path} names {worlds}"


def test_a_place_belongs_to_the_critic_that_knows_it():
    assert {"object", "background"} <= set(critics_by_place())
    shapes = critics()["shapes"]
    (prompt,) = shapes.prompts(1, seed=3)
    inside, around = (shapes.place_mask(place, prompt).array for place in ("object", "background"))
    assert ((inside + around) == 1).all()
    with pytest.raises(UnboxError, match="Shapes world only"):
        shapes.place_mask("object", Prompt("a cat"))


def test_critics_are_loaded_when_first_asked_for():
    code = (
        "import sys, unbox.experiments.critics as c\n"
        "print('unbox.shapes' in sys.modules, sorted(c.critics()), 'unbox.shapes' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False ['shapes'] True"
