"""One error for a user's mistakes: the command line prints it without a traceback."""

import errno
from reprlib import Repr


class UnboxError(ValueError):
    """What was asked for cannot be done. The message is a line: what was asked, what exists, what to do."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


class FieldError(UnboxError):
    """A field's value breaks its rule. `door`: what the value came through, a file, a class, an option."""

    #: Characters of a value that a message shows.
    LONGEST = 80

    def __init__(self, door: str, field: str, value: object, rule: str) -> None:
        self.door, self.field, self.value, self.rule = door, field, value, rule
        super().__init__(door, field, value, rule)

    def __str__(self) -> str:
        place = (
            self.field if self.rule == "is missing" else f"{self.field} = {shown(self.value)}".lstrip("= ")
        )
        text = f"{place}: {self.rule}" if place != self.field else f"{place} {self.rule}"
        return " ".join((f"{self.door}: {text}" if self.door else text).split())

    def at(self, door: str) -> "FieldError":
        """The same mistake, found behind `door`."""
        return FieldError(door, self.field, self.value, self.rule)

    def inside(self, place: str) -> "FieldError":
        """The same mistake, its field one of `place`, such as `edits[3]`."""
        dot = "." if self.field and not self.field.startswith("[") else ""
        field = f"{place}{dot}{self.field}" if place else self.field
        return FieldError(self.door, field, self.value, self.rule)


#: What to do about a refusal of the system.
_ROOM = "make room there or choose another place, and run the same line again"
_RIGHTS = "choose a place that you may use"
ADVICE = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "files may not grow so large there: raise the limit (ulimit -f) or choose another place",
    errno.EROFS: _RIGHTS,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EIO: "the disk fails: choose another place",
}


def system_message(error: OSError) -> str:
    """A refusal of the system in one line: of which file, what it is, what to do."""
    if error.filename is None or error.strerror is None:
        return str(error)
    files = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    advice = ADVICE.get(error.errno or 0)
    return f"{files}: {error.strerror}" + (f"; {advice}" if advice else "")


def shown(value: object) -> str:
    """A value in one line of a message, cut where it is long."""
    try:
        text = " ".join(_SHORT.repr(value).split())
    except ValueError:  # Python writes no numbers of over 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= FieldError.LONGEST else f"{text[: FieldError.LONGEST - 3]}..."


_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = FieldError.LONGEST
