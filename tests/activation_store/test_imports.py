"""The store needs numpy and h5py, and no other package: it imports, writes and reads where no other is."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Finds nothing but the standard library, numpy, h5py and the store, whoever asks.
FIND_NO_OTHER = """
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

FOUND = {"numpy", "h5py", "activation_store", *sys.stdlib_module_names}

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return PathFinder.find_spec(name, path, target) if name.split(".")[0] in FOUND else None

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Finder]
"""

WRITE_AND_READ = """
import numpy as np
from activation_store import Sample, Schema, Store, Writer, merge, repair, subset, verify

rng = np.random.default_rng(0)
for dtype in ("float16", "bfloat16", "float32", "int8", "float8"):
    path = f"{sys.argv[1]}/{dtype}"
    schema = Schema({"mid.0": (2, 3, 8)}, (0, 1), ("cond",), dtype=dtype, shard_samples=4)
    updates = rng.standard_normal((4, *schema.shape("mid.0", 4)[1:])).astype(np.float32)
    with Writer(path, schema) as writer:
        writer.append([Sample(i, f"prompt {i}", i) for i in range(4)], {"mid.0": updates})
    rows = Store.open(path)["mid.0"]
    assert np.allclose(rows.read(1), updates[1], atol=0.2 if dtype == "float8" else 0.05), dtype
    batches = list(rows.batches(5))
    assert sum(map(len, batches)) == len(rows) == 4 * 2 * 2 * 3
    assert np.isclose(np.concatenate(batches).sum(), sum(rows.read(i).sum() for i in range(4)), atol=1e-3)
    assert rows.moments.count == len(rows) and len(rows.sample(7)) == 7
    assert verify(path).good and repair(path).good
    assert len(subset(path, path + "-part", samples=[0, 1])) == 2
    assert len(merge([path, path + "-part"], path + "-both")) == 6
    assert not {"numba", "torch", "unbox"} & sys.modules.keys()
print("done")
"""


def test_the_store_works_with_no_other_package(tmp_path):
    command = [sys.executable, "-c", FIND_NO_OTHER + WRITE_AND_READ, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ("done", "")
