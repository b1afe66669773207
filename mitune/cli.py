"""``mitune align | build | real | tune | score | eval | export | merge | bench | doctor``: one verb
each, options generated from the dataclasses of ``mitune.commands``.

Verbs tell people what they did on stdout; with ``--json`` its last line is one JSON object.
Progress goes to stderr. A mistake of the user's is one line on stderr and exit code 2; Ctrl-C is
exit code 130 and a line that says how to go on.
"""

import logging
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import tyro

from mitune import allocator, progress
from mitune.commands import COMMANDS, Command
from mitune.commands.measure import Bench
from mitune.errors import UserError
from mitune.provenance import as_json

DESCRIPTION = """MI-Tune: align a text-to-image model with itself, by the point-wise mutual
information of prompt and image.

Start with 'mitune align --out runs/first': it aligns the embedded shapes model in minutes on two
CPU cores. 'mitune VERB --help' explains every option of a verb."""


def parse(arguments: Sequence[str]) -> Command:
    """The command that the words after ``mitune`` name; exits with 2 where they name none."""
    command: Command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        args=list(arguments),
        prog="mitune",
        description=DESCRIPTION,
    )
    return command


def run(command: Command) -> dict[str, Any]:
    """Run one parsed command, print its result for people and, if asked, as the last line for
    programs."""
    result = command.run()
    if command.json:
        print(as_json(result), flush=True)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``mitune``; exits with 0, 2 (a mistake of the user's) or 130 (interrupted)."""
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr
    )
    progress.quiet_libraries()
    arguments = sys.argv[1:] if arguments is None else arguments
    command = parse(arguments)
    if not isinstance(command, Bench):  # which does so itself, after the baselines
        allocator.keep_freed_memory()
    try:
        run(command)
    except UserError as error:
        print(f"mitune: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        again = shlex.join(["mitune", *arguments])
        print(f"\nmitune: interrupted; finished work is kept. To go on: {again}", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
