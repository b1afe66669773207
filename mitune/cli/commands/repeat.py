"""What a run leaves in its folder so that it can be repeated: the options it was given."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mitune.arguments import file
from mitune.config.shard import Shard
from mitune.core import progress
from mitune.core.errors import UserError


def check_out(out: Path) -> None:
    """Before the work rather than after it, and without making the folder.

    Raises:
        UserError: ``out`` cannot become a folder with files in it.
    """
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise UserError(f"{there} is a file: expected a folder for the results; choose another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there} cannot be written: expected a folder for the results")


def leave_command(command: Any, out: Path) -> None:
    """``OUT/command.yaml``, which ``mitune VERB --config`` takes."""
    if out.is_dir():
        file.write(command, out)


@contextmanager
def running(
    command: Any, out: Path, quiet: bool, *, first: bool = True, whose: str | None = None
) -> Iterator[progress.Bars | progress.Lines]:
    """Progress bars of a run into ``out``, and its command.yaml as soon as something is done there:
    not before, when the folder may be another run's; and not only at the end, which a run that is
    killed does not see.

    Args:
        command: the verb.
        out: the run's folder.
        quiet: no bars.
        first: whether this is the process that writes command.yaml.
        whose: in front of the lines that then take the place of bars: one of several processes.
    """
    started = partial(leave_command, command, out) if first else None
    with progress.shown(quiet, whose, started) as bars:
        yield bars
    if started is not None:
        started()


@contextmanager
def running_share(
    command: Any, out: Path, quiet: bool, shard: Shard
) -> Iterator[progress.Bars | progress.Lines]:
    """``running`` for a command with an option ``shard``: all shares leave the command of the
    whole."""
    whose = None if shard.of == 1 else f"shard {shard.number}/{shard.of}"
    whole = replace(command, shard=None)
    with running(whole, out, quiet, first=shard.number == 0, whose=whose) as bars:
        yield bars
