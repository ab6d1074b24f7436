"""Packages import one way. Read from the source, so that an import inside a function counts too."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: The modules at the top of the package: values only; every package may import them.
VOCABULARY = {path.stem for path in (ROOT / "unbox").glob("[a-z]*.py")}

#: A package may import those in the lines above its own, never others of its line.
LAYERS = (
    VOCABULARY | {"activation_store"},
    {"shapes"},
    {"models"},
    {"capture", "sae"},
    {"edits", "online", "training"},
    {"atlas"},
    {"experiments"},
    {"ground_truth"},
    {"recipes"},
    {"explorer"},
    {"cli"},
)
PACKAGES = sorted(set.union(*LAYERS))

#: What a package may not import at all.
FORBIDDEN = {
    "sae": ("diffusers", "transformers"),
    "capture": ("gradio",),
    "models": ("gradio", "h5py"),
    # Any model and any pictures: what only Shapes can tell comes through the registry of critics.
    "experiments": ("unbox.shapes",),
    "explorer": ("unbox.shapes",),
} | dict.fromkeys(VOCABULARY, ("torch", "diffusers", "transformers", "h5py", "gradio"))


def folder(package: str) -> Path:
    return ROOT / package if package == "activation_store" else ROOT / "unbox" / package


def modules(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; packages are named in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def package_of(module: str) -> str | None:
    """The package that a full module name belongs to; the package `unbox` itself is the top ("")."""
    words = module.split(".")
    if words[0] == "activation_store":
        return "activation_store"
    if words[0] != "unbox":
        return None
    return words[1] if len(words) > 1 and words[1] in PACKAGES else ""


def imports(package: str) -> set[tuple[str, str]]:
    paths = [folder(package).with_suffix(".py")] if package in VOCABULARY else folder(package).rglob("*.py")
    return {(str(path.relative_to(ROOT)), m) for path in paths for m in modules(path)}


def layer(package: str) -> int:
    return next(i for i, packages in enumerate(LAYERS) if package in packages)


def test_every_folder_is_a_package():
    folders = {path.parent.name for path in (ROOT / "unbox").glob("*/__init__.py")} | {"activation_store"}
    assert folders == set(PACKAGES) - VOCABULARY


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_is_below(package):
    wrong = [
        f"{path} imports {module}"
        for path, module in sorted(imports(package))
        if (other := package_of(module)) is not None
        and other != package
        and (other == "" or layer(other) >= layer(package))
        and not (package in VOCABULARY and layer(other or "cli") == 0)
    ]
    assert not wrong


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_a_package_keeps_to_its_trade(package):
    wrong = [
        f"{p} imports {m}"
        for p, m in sorted(imports(package))
        if f"{m}.".startswith(tuple(f"{name}." for name in FORBIDDEN[package]))
    ]
    assert not wrong


def test_the_store_needs_only_numpy_and_h5py():
    allowed = {"numpy", "h5py", "activation_store"} | sys.stdlib_module_names
    optional = {
        "activation_store/loop_compiler.py": {"numba"},
        "activation_store/remote_store.py": {"fsspec"},
    }
    wrong = [
        f"{p} imports {m}"
        for p, m in sorted(imports("activation_store"))
        if m.split(".")[0] not in allowed | optional.get(str(p), set())
    ]
    assert not wrong


def test_the_store_is_written_and_read_without_what_is_optional(tmp_path):
    code = (
        "import importlib.util as u, sys, numpy as np\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'numba' else find(name, *rest)\n"
        "from tests.activation_store import fakes\n"
        "from pathlib import Path\n"
        f"rows = fakes.make(Path({str(tmp_path / 'store')!r}), 6)['mid.0']\n"
        "print(sum(len(batch) for batch in rows.batches(7)) == len(rows), 'numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ("True False", "")


def test_importing_the_command_line_loads_no_heavy_library():
    names = [f"unbox.cli.{path.stem}" for path in (ROOT / "unbox" / "cli").glob("[a-z]*.py")]
    code = (
        f"import sys, importlib\nfor name in {names!r}: importlib.import_module(name)\n"
        "print({'torch', 'diffusers', 'transformers', 'gradio', 'matplotlib'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
