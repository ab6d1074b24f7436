"""Where metrics go: a JSONL file always, other trackers where asked for."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Protocol

from activation_store.files import publish_file
from unbox.errors import UnboxError

#: A line of metrics: the SAE's name, the rows it has seen, and numbers.
Record = Mapping[str, str | float]


class Sink(Protocol):
    """Takes lines of metrics."""

    def write(self, record: Record) -> None:
        """One line: `sae`, `tokens` and numbers."""

    def close(self) -> None:
        """No more lines will come."""


class JsonLines:
    """A file of one JSON object a line, flushed as it grows."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  (closed by `close`)

    def write(self, record: Record) -> None:
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def rewind(path: str | os.PathLike, done: Mapping[str, int]) -> None:
    """Drop the lines of a JSONL file that a resumed run will write again: those beyond an SAE's tokens.

    A last line that a killed process left half written goes too.
    """
    if not Path(path).exists():
        return
    lines = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["tokens"] <= done.get(record["sae"], 0):
            lines.append(line + "\n")
    with publish_file(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


class TensorBoard:
    """Event files for `tensorboard --logdir`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, record: Record) -> None:
        for name, value in _numbers(record).items():
            self._writer.add_scalar(f"{record['sae']}/{name}", value, record["tokens"])

    def close(self) -> None:
        self._writer.close()


class Tracker:
    """trackio and Weights & Biases, which share an interface: `init`, `log`, `finish`."""

    def __init__(self, name: str, folder: Path) -> None:
        self._module = import_module(name)
        self._module.init(project="unbox", name=folder.name)

    def write(self, record: Record) -> None:
        numbers = {f"{record['sae']}/{name}": value for name, value in _numbers(record).items()}
        self._module.log({**numbers, "tokens": record["tokens"]})

    def close(self) -> None:
        self._module.finish()


#: Name of an optional tracker -> how it starts, given the run's folder.
TRACKERS: dict[str, Callable[[Path], Sink]] = {
    "tensorboard": TensorBoard,
    "trackio": partial(Tracker, "trackio"),
    "wandb": partial(Tracker, "wandb"),
}


def trackers(names: Sequence[str], folder: Path) -> list[Sink]:
    """Start the trackers asked for; raises UnboxError for one that is unknown or not installed."""
    found = []
    for name in names:
        if name not in TRACKERS:
            raise UnboxError(f"no tracker '{name}'; there are {', '.join(TRACKERS)}")
        try:
            found.append(TRACKERS[name](folder))
        except ImportError:
            raise UnboxError(f"{name} is not installed; install it with pip, or leave it out") from None
    return found


def _numbers(record: Record) -> dict[str, float]:
    return {k: v for k, v in record.items() if k not in ("sae", "tokens") and isinstance(v, int | float)}
