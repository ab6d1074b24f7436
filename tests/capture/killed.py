"""Collects in one process after another and kills each at a random moment. Runs as a script.

A process that has loaded the model forks the ones to be killed, so that they die while they collect and not
while they load. With one thread, equal forwards give equal bits: stores must come out byte for byte as an
undisturbed one.
"""

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import unbox
from activation_store import Store, StoreError, verify
from unbox.models import Model
from unbox.prompt import Prompt

PROMPTS = ["a dog", "a cat", Prompt("a boat", {"colour": "red"}), "a house", "moon and star"]
RUN = {
    "blocks": ("down.2.1", "up.1.0"),
    "steps": 2,
    "guidance": 5.0,
    "batch_size": 2,
    "shard_samples": 2,
    "seed": 9,
}


def start(model: Model, folder: Path) -> int:
    """The id of a process that collects into `folder` and ends."""
    if process := os.fork():
        return process
    try:
        unbox.collect(model, PROMPTS * 2, folder, progress=False, **RUN)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def finish(model: Model, folder: Path) -> None:
    """Collect into `folder` undisturbed."""
    _, status = os.waitpid(start(model, folder), 0)
    assert status == 0


def main(weights: str, out: str, kills: str) -> None:
    """Print how many stores were begun, and how many processes were killed before their store was whole."""
    model, rng = unbox.load(weights, device="cpu"), random.Random(0)
    model.generate("a dog", seed=0, steps=1)  # what is made once in a process is made
    begin = time.perf_counter()
    finish(model, Path(out) / "whole")
    seconds = time.perf_counter() - begin
    number, cut = 0, 0
    for _ in range(int(kills)):
        folder = Path(out) / str(number)
        process = start(model, folder)
        time.sleep(rng.uniform(0, seconds / 2))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        cut += (here := images(folder)) < 2 * len(PROMPTS)
        number += here == 2 * len(PROMPTS)
    finish(model, Path(out) / str(number))
    print(number + 1, cut)


def images(folder: Path) -> int:
    """Images of a store whose writer was killed. Whatever is published must be good."""
    try:
        store = Store.open(folder)
    except StoreError:  # killed before its settings were written
        return 0
    assert not [f for f in verify(folder).findings if "in no log" not in f.problem]
    return len(store)


if __name__ == "__main__":
    main(*sys.argv[1:])
