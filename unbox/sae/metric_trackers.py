"""Where metrics go: a JSONL file always, and by `accelerate` to other trackers where asked for."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch

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


TrackerName = Literal["tensorboard", "trackio", "wandb"]


class TrackerStart(NamedTuple):
    """How one of accelerate's trackers is started for a run's folder."""

    run_name: Callable[[Path], str]
    """What accelerate calls the run: a project, or, of TensorBoard, the folder of its event files."""
    options: Callable[[Path], dict[str, str]]
    steps: bool
    """Whether lines may come in any order of steps: those of several blocks do."""


#: A row for each of `accelerate.tracking`'s trackers that tests run.
TRACKERS: dict[TrackerName, TrackerStart] = {
    "tensorboard": TrackerStart(
        lambda folder: "tensorboard", lambda folder: {"logging_dir": str(folder)}, True
    ),
    "trackio": TrackerStart(lambda folder: "unbox", lambda folder: {"name": folder.name}, False),
    "wandb": TrackerStart(
        lambda folder: "unbox", lambda folder: {"name": folder.name, "dir": str(folder)}, False
    ),
}


def _tracker(name: TrackerName, folder: Path) -> Sink:
    """A tracker of accelerate's, at work."""
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    row, threads = TRACKERS[name], torch.get_num_threads()
    PartialState(cpu=not torch.cuda.is_initialized())  # trackers ask it where they are
    torch.set_num_threads(threads)
    tracker = LOGGER_TYPE_TO_CLASS[name](row.run_name(folder), **row.options(folder))
    tracker.main_process_only = False  # none but the first process has one
    tracker.start()

    def write(record: Record) -> None:
        step = int(cast(float, record["tokens"])) if row.steps else None
        tracker.log({**_numbers(record), f"{record['sae']}/tokens": record["tokens"]}, step=step)

    return Sink(write, tracker.finish)


def trackers(names: Sequence[TrackerName], folder: Path) -> list[Sink]:
    """Start the trackers asked for; raises UnboxError for one that is not installed."""
    found = []
    for name in names:
        try:
            found.append(_tracker(name, folder))
        except ImportError:
            raise UnboxError(f"{name} is not installed; install it with pip, or leave it out") from None
    return found


def _numbers(record: Record) -> dict[str, float]:
    """The single figures of a line, by `<SAE>/<name>`."""
    figures = {k: v for k, v in record.items() if k not in ("sae", "tokens") and isinstance(v, int | float)}
    return {f"{record['sae']}/{name}": value for name, value in figures.items()}
