"""What a run leaves in its folder so that it can be repeated: the options it was given."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mitune import progress
from mitune.arguments import file


def leave_command(command: Any, out: Path) -> None:
    """``OUT/command.yaml``, which ``mitune VERB --config`` takes."""
    if out.is_dir():
        file.write(command, out)


@contextmanager
def running(command: Any, out: Path, quiet: bool, first: bool = True) -> Iterator[progress.Bars]:
    """Progress bars of a run into ``out``, and its command.yaml as soon as something is done there:
    not before, when the folder may be another run's; and not only at the end, which a run that is
    killed does not see.

    Args:
        command: the verb.
        out: the run's folder.
        quiet: no bars.
        first: whether this is the process that writes.
    """
    started = partial(leave_command, command, out) if first else None
    with progress.bars(quiet or not first, started) as bars:
        yield bars
    if started is not None:
        started()
