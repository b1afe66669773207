"""The one exception that is the user's to mend."""


class UserError(ValueError):
    """A mistake in what the user gave: ``str(error)`` is the one line shown, naming the thing, what
    was expected and the mend. The command line prints it and exits with 2; library callers can
    catch it as a ValueError.

    The line stays one line, whatever it names: see ``printable``."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """A text in one line that every terminal shows: line breaks, control characters and the bytes
    of a file's name that are no UTF-8 are escaped as Python escapes them."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
