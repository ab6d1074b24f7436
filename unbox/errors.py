"""One error for a user's mistakes: the command line prints it without a traceback."""


class UnboxError(ValueError):
    """What was asked for cannot be done. The message names what was asked, what exists, what to do."""
