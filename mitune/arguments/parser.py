"""Parse words, and perhaps a YAML file, into the dataclass of a verb."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import TypeVar

from mitune.arguments import file, words
from mitune.arguments.help import list_verbs, show_options
from mitune.arguments.option import Option, quoted
from mitune.arguments.spec import gathered
from mitune.arguments.spec import options as options_of
from mitune.core.errors import UserError

Made = TypeVar("Made")

CONFIG = Option(
    name="config",
    words=f"YAML file of options, each by its name; words on the command line override it. A run's "
    f"folder holds its own, {file.NAME}, which repeats it.",
    group="output",
    kinds=(Path,),
    optional=True,
    default=None,
)


class Asked(Exception):
    """The user asks for help or the version; ``str(asked)`` is the text to show."""


def parse_verb(
    arguments: Sequence[str],
    verbs: Mapping[str, Callable[..., Made]],
    *,
    program: str,
    description: str,
    version: str,
) -> Made:
    """Parse the verb that the first word names, and the options after it.

    Args:
        arguments: the words after the program's name.
        verbs: maps each name to a dataclass.
        program, description, version: for the help.

    Raises:
        UserError: a mistake in the words.
        Asked: the words ask for help or the version.
    """
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help"):
        raise Asked(list_verbs(program, description, verbs))
    if verb == "--version":
        raise Asked(f"{program} {version}")
    if verb not in verbs:
        known = ", ".join(verbs)
        near = words.nearest(verb, [*verbs, "--help", "--version"])
        raise UserError(f"verb {quoted(verb)} is not known: choose one of {known}{near}")
    return parse(arguments[1:], verbs[verb], program=f"{program} {verb}")


def parse(arguments: Sequence[str], verb: Callable[..., Made], *, program: str) -> Made:
    """Parse words into an instance of the dataclass ``verb``.

    Raises:
        UserError: a mistake in the words or in the file of ``--config``, or one that the dataclass
            itself finds.
        Asked: the words ask for help.
    """
    assert isinstance(verb, type)
    own = options_of(verb)
    options = own | {"config": CONFIG}
    before = arguments[: list(arguments).index("--")] if "--" in arguments else arguments
    if "-h" in before or "--help" in before:
        raise Asked(show_options(program, verb, options))
    given = words.read(arguments, options)
    path = given.pop("config", None)
    values = given if path is None else file.read(path, program.split()[-1], own) | given
    for option in own.values():
        if option.default is MISSING and option.name not in values:
            about = re.split(r"[.:;(]", option.words)[0].strip()
            raise UserError(f"{option.flag} is missing: expected {option.metavar} ({about})")
    made: Made = verb(**gathered(verb, values))
    return made
