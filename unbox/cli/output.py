"""Standard output that nobody reads any more (`unbox models | head -1`), or that its file has no room for."""

import os
import select
import sys

from unbox.errors import ADVICE


def unread() -> bool:
    """Whether the reader of standard output or error is gone."""
    for stream in (sys.stdout, sys.stderr):
        try:
            poll, descriptor = select.poll(), stream.fileno()
        except (AttributeError, OSError, ValueError):  # none, or one of Python's own
            continue
        poll.register(descriptor, 0)  # errors and hang-ups are told unasked
        if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
            return True
    return False


def refused(error: OSError | None = None) -> bool:
    """Whether standard output takes no more. What is left in its buffer is then dropped: the interpreter
    would complain of it at its end, and change the exit code. `error`: one that may be of standard output;
    where nothing is left, a line shows it."""
    try:
        if error is not None and error.filename is None and error.errno in ADVICE and not sys.stdout.isatty():
            sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return True
    return False
