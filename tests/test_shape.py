"""The shape of the code, from its source: circles, names used twice, typed arguments."""

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted(path for room in ("unbox", "activation_store") for path in (ROOT / room).rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

#: Base names that several files have because they are the same kind of thing in parallel packages.
PARALLEL = {
    "methods.py": "what a benchmark compares",
    "errors.py": "the errors of the store, which imports nothing of unbox, and of unbox",
    "hub.py": "models from the Hub, and SAEs to and from it",
    "model.py": "the diffusion model, and the SAE",
    "report.py": "the page of an experiment, of the benchmark, of the demo, of an evaluation",
}
#: Of arguments with annotations, the share that may say nothing (`Any`, `object`, a bare container, a cast).
UNTYPED = 0.08


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.Module) -> set[str]:
    """Full names that a file imports, inside functions and under TYPE_CHECKING too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_file_imports_another_that_imports_it():
    modules = {module(path): path for path in FILES if path.name != "__init__.py"}
    edges = {name: (imported(TREES[path]) & set(modules)) - {name} for name, path in modules.items()}

    def reached(start: str) -> set[str]:
        found, todo = set(), [start]
        while todo:
            for other in edges[todo.pop()] - found:
                found.add(other)
                todo.append(other)
        return found

    assert [name for name in sorted(modules) if name in reached(name)] == []


def test_no_two_public_classes_share_a_name():
    homes = defaultdict(list)
    for path, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(module(path))
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_a_base_name_is_used_twice_only_where_packages_are_parallel():
    homes = defaultdict(list)
    for path in FILES:
        if not path.name.startswith("__"):
            homes[path.name].append(str(path.relative_to(ROOT)))
    # A command's file is called what is typed, and so may share its name with the module that does the work.
    twice = {
        name: where
        for name, where in homes.items()
        if len([path for path in where if not path.startswith("unbox/cli/")]) > 1
    }
    assert {name: where for name, where in twice.items() if name not in PARALLEL} == {}
    assert set(PARALLEL) <= set(twice), "a name that is no longer used twice needs no place in the list"


def test_arguments_have_types():
    nothing = re.compile(r"\b(Any|object)\b")
    annotated, untyped, per_file = 0, 0, Counter()
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                every = [
                    *node.args.posonlyargs,
                    *node.args.args,
                    *node.args.kwonlyargs,
                    node.args.vararg,
                    node.args.kwarg,
                ]
                said = [ast.unparse(arg.annotation) for arg in every if arg and arg.annotation]
                annotated += len(said)
                bad = sum(bool(nothing.search(text)) or text in ("dict", "list", "tuple") for text in said)
                untyped += bad
                per_file[path] += bad
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("cast", "typing.cast"):
                untyped += 1
    worst = [f"{count} in {path.relative_to(ROOT)}" for path, count in per_file.most_common(8)]
    assert untyped / annotated <= UNTYPED, f"{untyped} of {annotated}: {worst}"


def test_no_blanket_handler_makes_a_mistake_of_the_users():
    """`except Exception` may clean up and raise again: a fault of ours must stay a traceback."""
    wrong = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and _is_blanket(node):
                raised = [each for each in ast.walk(node) if isinstance(each, ast.Raise)]
                if not raised or any(each.exc is not None for each in raised):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


def _is_blanket(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in kinds)
