"""SDXL's real architecture: eight prompts at 512 px, one step, the paper's four blocks.

Minutes of computing and 7 GB of disk: runs when UNBOX_REAL_SIZE names a folder to keep the random weights in.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from activation_store import Store
from unbox.site import DEFAULT_BLOCKS

FOLDER = os.environ.get("UNBOX_REAL_SIZE")

COLLECT = """
import resource, sys
from unbox.cli.main import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.exit(code)
"""


@pytest.mark.real_size
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(FOLDER is None, reason="UNBOX_REAL_SIZE names no folder for 7 GB of random weights")
def test_eight_prompts_at_512_px_within_24_gb(tmp_path):
    from unbox.models.real_size import write_random

    folder = Path(FOLDER) / "sdxl-random"
    if not folder.exists():
        write_random(folder)
    (tmp_path / "p.txt").write_text("\n".join(f"a picture of {n} dogs" for n in range(8)))
    words = f"collect --model {folder} --prompts {tmp_path / 'p.txt'} --store {tmp_path / 's'}"
    options = "--system sdxl-turbo --steps 1 --height 512 --width 512 --batch-size 4"
    done = subprocess.run(
        [sys.executable, "-c", COLLECT, *words.split(), *options.split()], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split("peak ")[1]) < 24e9
    store = Store.open(tmp_path / "s")
    assert store.blocks == DEFAULT_BLOCKS
    for block in DEFAULT_BLOCKS:
        assert store[block].shape == (8, 1, 1, 16, 16, 1280)
        assert len(store[block]) == 8 * 256
        assert (store[block].moments.variance > 0).all()
