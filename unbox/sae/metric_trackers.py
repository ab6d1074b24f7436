"""Where metrics go: a JSONL file always, other trackers where asked for."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple

from activation_store.files import naming, publish_file
from unbox.errors import UnboxError
from unbox.text_files import read_text
from unbox.validation import Amount, JSONObject, Text, checked

#: Largest file of metrics, in bytes: some 200 a line.
METRICS_LIMIT = 1 << 30

#: A line of metrics: the SAE's name, the rows it has seen, and numbers.
Record = Mapping[str, str | float | list[int]]


class Sink(NamedTuple):
    """Takes lines of metrics: `sae`, `tokens` and numbers; `close`: no more will come."""

    write: Callable[[Record], None]
    close: Callable[[], None]


def json_lines(path: str | os.PathLike) -> Sink:
    """A file of one JSON object a line, flushed as it grows."""
    file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115  (closed by `close`)

    def write(record: Record) -> None:
        with naming(Path(path)):
            print(json.dumps(record, allow_nan=False), file=file)

    return Sink(write, file.close)


def rewind(path: str | os.PathLike, done: Mapping[str, int]) -> None:
    """Drop the lines of a JSONL file that a resumed run will write again: those beyond an SAE's tokens.

    A last line that a killed process left half written goes too.
    """
    if not Path(path).exists():
        return
    lines = []
    for number, line in enumerate(read_text(Path(path), METRICS_LIMIT).splitlines(), 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        door = f"line {number} of {path}"
        name = checked(Text, "sae", checked(JSONObject, "", record, door).get("sae"), door)
        if checked(Amount, "tokens", record.get("tokens"), door) <= done.get(name, 0):
            lines.append(line + "\n")
    with publish_file(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def _tensorboard(folder: Path) -> Sink:
    """Event files for `tensorboard --logdir`."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))

    def write(record: Record) -> None:
        for name, value in _numbers(record).items():
            writer.add_scalar(name, value, record["tokens"])

    return Sink(write, writer.close)


def _tracker(name: str, folder: Path) -> Sink:
    """trackio and Weights & Biases, which share an interface: `init`, `log`, `finish`."""
    module = import_module(name)
    module.init(project="unbox", name=folder.name)
    return Sink(lambda r: module.log({**_numbers(r), "tokens": r["tokens"]}), module.finish)


TrackerName = Literal["tensorboard", "trackio", "wandb"]
#: Name of an optional tracker -> how it starts, given the run's folder.
TRACKERS: dict[TrackerName, Callable[[Path], Sink]] = {
    "tensorboard": _tensorboard,
    "trackio": partial(_tracker, "trackio"),
    "wandb": partial(_tracker, "wandb"),
}


def trackers(names: Sequence[TrackerName], folder: Path) -> list[Sink]:
    """Start the trackers asked for; raises UnboxError for one that is not installed."""
    found = []
    for name in names:
        try:
            found.append(TRACKERS[name](folder))
        except ImportError:
            raise UnboxError(f"{name} is not installed; install it with pip, or leave it out") from None
    return found


def _numbers(record: Record) -> dict[str, float]:
    """The single figures of a line, by `<SAE>/<name>`."""
    figures = {k: v for k, v in record.items() if k not in ("sae", "tokens") and isinstance(v, int | float)}
    return {f"{record['sae']}/{name}": value for name, value in figures.items()}
