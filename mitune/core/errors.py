"""The exception for mistakes that the user can fix."""


class UserError(ValueError):
    """A mistake in the user's input.

    ``str(error)`` is one line that names the thing, what was expected and how to fix it. The
    command line prints the line and exits with 2; callers of the library can catch the error as a
    ValueError. ``printable`` keeps the message on one line, whatever it names.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """Return ``text`` as one line that every terminal can show.

    Line breaks, control characters and bytes of a file name that are not UTF-8 become the escapes
    that Python uses.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
