"""Pieces of work that several processes do one by one, each with what it needs loaded once."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TypeVar

from unbox.errors import UnboxError

Piece = TypeVar("Piece")
#: From a process's number to what does a piece of work there; called in that process, once.
Start = Callable[[int], Callable[[Piece], None]]


def in_processes(start: Start[Piece], pieces: Sequence[Piece], processes: int) -> Iterator[Piece]:
    """Do every piece in one of `processes` new processes, and yield it when it is done, in any order.

    A process gets its next piece when it is free; results are kept by what `start` makes. When the iterator
    is closed, by a stop say, or one of them fails, all are ended. Raises UnboxError for what one of them
    raised so, or for one that has ended. They begin as new interpreters: a script that calls this guards its
    work with `if __name__ == "__main__":`.
    """
    waiting, context = list(reversed(pieces)), get_context("spawn")
    at_work: dict[Connection, SpawnProcess] = {}
    try:
        for number in range(min(processes, len(waiting))):
            ours, theirs = context.Pipe()
            child = context.Process(target=_serve, args=(start, number, theirs), daemon=True)
            child.start()
            theirs.close()
            at_work[ours] = child
            ours.send(waiting.pop())
        while at_work:
            ready = connection.wait(list(at_work))
            for ours in [each for each in at_work if each in ready]:
                try:
                    piece, error = ours.recv()
                except EOFError:
                    at_work[ours].join()
                    code = at_work[ours].exitcode
                    raise UnboxError(
                        f"one of {processes} processes has ended with code {code}; what was finished is kept"
                    ) from None
                if error is not None:
                    raise error
                yield piece
                if waiting:
                    ours.send(waiting.pop())
                else:
                    ours.close()
                    at_work.pop(ours).join()
    finally:
        for child in at_work.values():
            child.terminate()
        for ours, child in at_work.items():
            child.join()
            ours.close()


def _serve(start: Start[Piece], number: int, theirs: Connection) -> None:
    """What a process does: pieces, until there are no more or whoever gives them is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal's Ctrl-C the first process tells
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # leaves no semaphores
    try:
        work = start(number)
        while True:
            piece = theirs.recv()
            work(piece)
            theirs.send((piece, None))
    except UnboxError as error:
        theirs.send((None, error))
    except (EOFError, BrokenPipeError):
        return
