"""A disk that refuses (here: files may grow to a bound): which file, what to do; no crash, nothing half."""

import ast
import json
import subprocess
import sys

from tests.test_shape import ROOT, TREES

#: What is run where files may grow to 20,000 bytes; `path` is where, `noise` cannot be compressed.
WRITERS = {
    "bytes": "write_bytes(path, noise.tobytes())",
    "json": "write_json(path, noise.tolist())",
    "hdf5": "atlas_files.write_arrays(enter(atlas_files.writing(path)), {'x': noise})",
    "safetensors": "write_tensors(path, {'x': torch.from_numpy(noise)})",
    "png": "save_png(Image.fromarray(noise), path, {})",
    "npz": "encode_pass.save(path, 'key', Arrays(), Arrays())",
    "sqlite": "fill(enter(database.connect(enter(publish_file(path)), write=True)))",
    "safetensors' own": "new = enter(publish_folder(path)); enter(disk_refusals()); "
    "save_file({'x': torch.from_numpy(noise)}, new / 'x.safetensors')",
    "metrics": "sink = json_lines(path)\nwhile True: sink.write({'x': 1.0})",
}

#: Runs each as the command line would, in a process of its own; prints exit code and message of each.
SCRIPT = """
import json, os, resource, signal, sys
from contextlib import ExitStack
from pathlib import Path
import numpy as np, torch
from PIL import Image
from safetensors.torch import save_file
from activation_store.files import publish_file, publish_folder, write_bytes, write_json
from unbox.atlas import atlas_files, database, encode_pass
from unbox.cli import main as cli
from unbox.models.png_record import save_png
from unbox.sae.metric_trackers import json_lines
from unbox.sae.safetensors_io import disk_refusals, write_tensors

noise = np.random.default_rng(0).integers(0, 256, (400, 400), np.uint8)

class Arrays:
    def arrays(self): return {"x": noise}

def fill(connection):
    connection.execute("CREATE TABLE t (x)")
    connection.executemany("INSERT INTO t VALUES (?)", ((row.tobytes(),) for row in noise))

def attempt(kind, writer):
    folder = Path(sys.argv[1], kind)
    folder.mkdir()
    told = os.open(folder.with_suffix(".told"), os.O_RDWR | os.O_CREAT)
    if (child := os.fork()) == 0:
        os.dup2(told, 2)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        def write(typed):
            with ExitStack() as stack:
                exec(writer, globals() | {"path": folder / "out.png", "enter": stack.enter_context})
        cli.run = write
        sys.exit(cli.main([]))  # through the end of the interpreter, where HDF5 crashed
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, os.pread(told, 4000, 0).decode(), [path.name for path in folder.iterdir()]

print(json.dumps({kind: attempt(kind, writer) for kind, writer in json.loads(sys.argv[2]).items()}))
"""


def test_every_writer_names_its_file_and_leaves_nothing(tmp_path):
    words = [sys.executable, "-c", SCRIPT, str(tmp_path), json.dumps(WRITERS)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for kind, (code, told, left) in json.loads(done.stdout).items():
        refusal = "Input/output error" if kind == "sqlite" else "File too large"
        assert told.startswith(f"unbox: {tmp_path / kind / 'out.png'}"), (kind, told)
        assert refusal in told, (kind, told)
        assert (code, told.count("\n")) == (2, 1), (kind, told)
        assert left == (["out.png"] if kind == "metrics" else []), kind  # lines that were whole stay


def test_hdf5_is_written_by_one_function_alone():
    """h5py's own files cannot be closed on a full disk, and take the process down."""
    writing = [
        str(path.relative_to(ROOT))
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "h5py.File"
        for mode in [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "mode")]
        if ast.unparse(mode) != "'r'"
    ]
    assert writing == ["activation_store/new_hdf5.py"]
