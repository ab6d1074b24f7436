"""README and docs are run: their Python, made small; their command lines, parsed; the path by hand, walked.

What is replaced to make it quick is in a table, each entry to be found in its page. A comment that names
axes behind an expression, `# (sample, step, branch, y, x, channel)`, is held against the array's real axes.
"""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unbox.cli import main as cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: What a page's Python is given to be quick here, or for weights that cannot be had without a network.
SMALLER = {
    "README.md": {"prompts(2000)": "prompts(24)", "width=128)": "width=128, num_inference_steps=2)"},
    "docs/sae.md": {
        "tokens=10_000_000": "tokens=6_000",
        "latents=5120)  # one": "latents=5120, tokens=6_000)  # one",
    },
    "docs/store.md": {"range(1000)": "range(20)", "rows.sample(32768": "rows.sample(128"},
    "docs/systems.md": {
        'load("sdxl-lightning-4step")': 'load("shapes-turbo")',
        "    height=height": "    steps=1,\n    height=height // 8",
        "    width=width": "    width=width // 8",
    },
}
#: How long the axes of a recording are, by what a page's code asks for (a bare pipeline call is guided).
LENGTHS = {
    "README.md": {"sample": 1, "step": 2, "branch": 2},
    "docs/store.md": {"sample": 1, "step": 4, "branch": 1},
}
#: Comments on axes or values in each page: fewer found means that the test no longer sees them.
COMMENTS = {"README.md": 1, "docs/store.md": 8, "docs/systems.md": 2}


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [text for kind, text in found if kind == language]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with what the pages speak of: `acts`, `saes`, `atlas` of the bundled model, small."""
    import unbox
    from unbox.atlas import build
    from unbox.sae import specs, train
    from unbox.shapes import prompts

    folder = tmp_path_factory.mktemp("docs")
    model = unbox.load("shapes-turbo")
    names = ["up.0.1", "up.1.1"]
    store = unbox.collect(model, prompts(24), folder / "acts", blocks=names, steps=1, progress=False)
    train(store, folder / "saes", specs(names, k=8, latents=512), tokens=6_000, progress=False)
    build(store, unbox.load_saes(folder / "saes"), folder / "atlas", progress=False)
    return folder


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_python_of_a_page_runs(page, world, tmp_path, monkeypatch):
    from activation_store import Store

    for folder in world.iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    if page.name in ("README.md", "sae.md"):  # these write their own
        (tmp_path / ("acts" if page.name == "README.md" else "saes")).unlink()
    monkeypatch.chdir(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    mask = np.zeros((8, 8), np.float32)
    mask[2:5] = 1
    store = Store.open(world / "acts")
    update = torch.from_numpy(store["up.0.1"].read(0))
    names = {"mask": mask, "image": picture, "store": store, "update": update}
    code = "\n".join(blocks(page, "python"))
    for long, short in SMALLER.get(name(page), {}).items():
        assert long in code, f"{page.name} no longer says {long}"
        code = code.replace(long, short)
    assert run(code, names, LENGTHS.get(name(page), {})) == COMMENTS.get(name(page), 0)


def run(code: str, names: dict[str, object], lengths: dict[str, int]) -> int:
    """Execute statement by statement; the number of comments on axes or values that were found right."""
    lines, checked = code.split("\n"), 0
    for statement in ast.parse(code).body:
        exec(compile(ast.Module([statement], []), "<page>", "exec"), names)
        comment = re.search(r"  # \(([\w, ]+)\)", lines[statement.end_lineno - 1])
        if comment is None or not isinstance(statement, ast.Expr | ast.Assign):
            continue
        shown = statement.value if isinstance(statement, ast.Expr) else statement.targets[0]
        value = eval(compile(ast.Expression(_loaded(shown)), "<page>", "eval"), names)
        parts = [part.strip() for part in comment[1].split(",")]
        if all(part.isdigit() for part in parts):
            assert value == tuple(map(int, parts))
        else:
            shape = dict(zip(parts, value.shape, strict=True))
            if "sample" in shape:
                assert shape == shape | {axis: lengths[axis] for axis in lengths if axis in shape}
        checked += 1
    return checked


def _loaded(node: ast.expr) -> ast.expr:
    """What a statement assigns to, as an expression."""
    for each in ast.walk(node):
        if hasattr(each, "ctx"):
            each.ctx = ast.Load()
    return node


def command_lines(page: Path) -> list[str]:
    """Lines of a page's plain blocks that call `unbox` with real arguments."""
    found = []
    for block in blocks(page, ""):
        for line in re.sub(r"\\\n\s*", " ", block).split("\n"):
            for part in re.split(r"\s{4,}(?=unbox )", line.partition("#")[0].strip()):
                call = re.sub(r"\[.*?\]$", "", re.sub(r"^(torchrun \S+ \d+ -m|uv run) ", "", part)).strip()
                if call.startswith("unbox ") and "|" not in call and "..." not in call:
                    found.append(call)
    return found


@pytest.mark.parametrize("line", sorted({line for page in PAGES for line in command_lines(page)}))
def test_a_command_line_of_a_page_is_one(line):
    command, rest = cli.find(shlex.split(line)[1:])
    cli.parse(command, rest)


@pytest.mark.slow
def test_the_path_by_hand_ends_in_a_green_square(tmp_path):
    """README's lines in a shell, with fewer pictures."""
    (block,) = [text for text in blocks(ROOT / "README.md", "") if "edit.json" in text]
    for long, short in {"--limit 2000": "--limit 64", "--tokens 1000000": "--tokens 20000"}.items():
        assert long in block
        block = block.replace(long, short)
    script = f'set -e\nunbox() {{ {shlex.quote(sys.executable)} -m unbox "$@"; }}\n{block}'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with Image.open(tmp_path / "edited.png") as picture:
        assert picture.size == (128, 128)


def test_what_development_names_exists():
    text = (ROOT / "docs" / "development.md").read_text(encoding="utf-8")
    rows = [row.split("|")[2] for row in text.splitlines() if row.startswith("| ") and "`" in row]
    paths = {path for row in rows for path in re.findall(r"`((?:unbox|activation_store)/[\w/.]*)`", row)}
    assert len(paths) > 20
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
