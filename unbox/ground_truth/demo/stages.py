"""Stages of a long job: each named by what it depends on, done once, found again on the next run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from activation_store import digest, read_json, write_json
from activation_store.files import canonical


@dataclass(frozen=True)
class Stage:
    """A finished stage: its key, the folder of what it wrote, its JSON result, and the seconds it took."""

    key: str
    folder: Path
    result: Any
    seconds: float


class Stages:
    """Runs stages under a folder, `NAME-KEY` each; the key digests unbox's version, name, settings and
    the keys of the stages before it.

    A stage is done when `result.json` is in its folder: it is written last. A stage that was stopped runs
    again in the same folder, where what it had begun (a store, SAEs) goes on from what is there.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = print):
        self.folder = folder
        self.say = say
        self.done: list[Stage] = []

    def run(
        self,
        name: str,
        about: str,
        settings: Any,
        build: Callable[[Path], Any],
        after: tuple[Stage, ...] = (),
    ) -> Stage:
        """The finished stage, from disk where it was done before. `build` gets the folder, returns JSON."""
        key = digest(canonical([version("unbox"), name, settings, [stage.key for stage in after]]))[:12]
        folder = self.folder / f"{name}-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        finished = folder / "result.json"
        kept = finished.exists()
        self.say(f"[{len(self.done) + 1}] {about}" + (" (done before)" if kept else ""))
        if not kept:
            start = time.perf_counter()
            result = build(folder)
            write_json(finished, {"result": result, "seconds": round(time.perf_counter() - start, 2)})
        stage = Stage(key, folder, **read_json(finished))
        self.done.append(stage)
        return stage
