"""``mitune align | build | real | tune | score | eval | generate | export | merge | push | study |
bench | doctor``: one verb each, options generated from the dataclasses of ``mitune.cli.commands``.

Verbs tell people what they did on stdout; with ``--json`` its last line is one JSON object, after a
mistake too. Progress goes to stderr. A mistake of the user's is one line on stderr and exit code 2;
Ctrl-C is exit code 130 and a line that says how to go on. Nothing here imports torch: a verb does
when it runs.
"""

# A verb's import is the verb's: here, each function's its own. An interrupt in the first tenth of a
# second then finds the process's handler in place (mitune.core.process).
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mitune.cli.commands import Command

DESCRIPTION = """MI-Tune: align a text-to-image model with itself, by the point-wise mutual
information of prompt and image.

Start with 'mitune align --out runs/first': it aligns the embedded shapes model in minutes on two
CPU cores. Its steps, one by one:

  mitune build --out runs/set                    makes pictures, keeps the best
  mitune tune --set runs/set --out runs/adapter  trains an adapter on them
  mitune eval --adapter runs/adapter             compares it with its base"""


def parse(arguments: Sequence[str]) -> "Command":
    """The command that the words after ``mitune`` name.

    Raises:
        UserError: they name none, or an option is wrong.
        mitune.arguments.parser.Asked: they ask for help or the version.
    """
    import mitune
    from mitune.arguments.parser import parse_verb
    from mitune.cli.commands import COMMANDS

    return parse_verb(
        arguments,
        COMMANDS,
        program="mitune",
        description=DESCRIPTION,
        version=mitune.__version__,
    )


def run(command: "Command") -> dict[str, Any]:
    """Run one parsed command, print its result for people and, if asked, as the last line for
    programs."""
    from mitune.cli.commands.bench import Bench
    from mitune.core.provenance import as_json
    from mitune.runtime.malloc import keep_freed_memory

    if not isinstance(command, Bench):  # which does so itself, after the baselines
        keep_freed_memory()
    result = command.run()
    if command.json:
        print(as_json(result), flush=True)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``mitune``.

    Args:
        arguments: the words after ``mitune``; None takes the process's own, and then its streams
            and signals too (``mitune.core.process``).

    Raises:
        SystemExit: with 2 (a mistake of the user's), 130 (interrupted) or 143 (terminated).
    """
    from mitune.core import process

    if arguments is None:
        process.own(lambda: main(sys.argv[1:]))

    import logging

    from mitune.arguments.parser import Asked
    from mitune.core.errors import UserError

    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr
    )
    try:
        run(parse(arguments))
    except Asked as asked:
        print(asked, flush=True)
    except UserError as error:
        raise _stop(str(error), 2, arguments) from None
    except process.Terminated:
        raise _stop(_go_on("terminated", arguments), process.TERMINATED, arguments) from None
    except KeyboardInterrupt:
        raise _stop(_go_on("interrupted", arguments), process.INTERRUPTED, arguments) from None


def _go_on(what: str, arguments: Sequence[str]) -> str:
    import shlex

    again = shlex.join(["mitune", *arguments])
    return f"{what}; finished work is kept. To go on: {again}"


def _stop(message: str, code: int, arguments: Sequence[str]) -> SystemExit:
    """Tell people, and programs that listen, why the command ends."""
    from mitune.core.provenance import as_json

    line = " ".join(message.splitlines())
    if code > 2 and sys.stderr.isatty():
        print(file=sys.stderr)  # behind ^C
    print(f"mitune: {line}", file=sys.stderr)
    if "--json" in arguments:
        print(as_json({"error": line}), flush=True)
    return SystemExit(code)


if __name__ == "__main__":
    main()
