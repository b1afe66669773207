"""The one exception that is the user's to mend."""


class UserError(ValueError):
    """A mistake in what the user gave: ``str(error)`` is the one line shown, naming the thing, what
    was expected and the mend. The command line prints it and exits with 2; library callers can
    catch it as a ValueError."""
