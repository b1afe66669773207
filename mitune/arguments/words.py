"""Parse the words after a verb."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mitune.arguments.option import Option, quoted
from mitune.core import progress
from mitune.core.errors import UserError


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" for a message about an unknown word; "" if none is near."""
    known = list(known)
    longer = [each for each in known if len(word) > 2 and each.startswith(word)]
    near = longer or difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def read(words: Sequence[str], options: Mapping[str, Option]) -> dict[str, Any]:
    """Parse words into values by field name.

    A value is the next word, unless that begins with "--"; it may begin with "-". After a "--"
    alone, all words are positional. --a_b means --a-b.

    Raises:
        UserError: an unknown, repeated or incomplete option, a value of the wrong type, or a word
            too many.
    """
    flags = {option.flag: option for option in options.values() if not option.positional}
    former = {
        "--" + option.former.replace("_", "-"): option.flag
        for option in options.values()
        if option.former
    }
    given: dict[str, Any] = {}
    rest: list[str] = []
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        if word == "--":
            rest += words[place:]
            break
        if not word.startswith("-") or word == "-":
            rest.append(word)
            continue
        name, equals, value = word.partition("=")
        name = name[:2] + name[2:].replace("_", "-")
        if name in former:
            progress.warn(f"{name} is called {former[name]} now")
            name = former[name]
        option, unsaid = flags.get(name), False
        if option is None and name.startswith("--no-"):
            option = flags.get("--" + name[len("--no-") :])
            unsaid = option is not None and option.switch
            option = option if unsaid else None
        if option is None:
            raise UserError(f"option {quoted(name)} is not known{nearest(name, flags)}")
        if option.switch:
            if equals:
                raise UserError(f"{quoted(word)} has a value: expected {name} alone")
            if given.get(option.name, not unsaid) is unsaid:
                raise UserError(f"{option.flag} is given on and off: give one of them")
            given[option.name] = not unsaid
            continue
        texts = [value] if equals else _values(words[place:], option)
        place += 0 if equals else len(texts)
        if not texts or (option.count is not None and len(texts) < option.count):
            raise UserError(
                f"{option.flag} has {len(texts) or 'no'} value{'s' * (len(texts) > 1)}: expected "
                f"{option.flag} {option.metavar}; a value that begins with -- is given as "
                f"{option.flag}=VALUE"
            )
        parsed = option.parse(texts)
        if option.repeated:
            given.setdefault(option.name, []).extend(parsed)
        elif option.name in given:
            raise UserError(f"{option.flag} is given twice: give it once")
        else:
            given[option.name] = parsed
    return given | _positional(rest, options)


def _values(words: Sequence[str], option: Option) -> list[str]:
    """As many of the next words as the option takes."""
    most = 1 if option.repeated else option.count
    taken: list[str] = []
    for word in words:
        if word.startswith("--") or len(taken) == most:
            break
        taken.append(word)
    return taken


def _positional(rest: Sequence[str], options: Mapping[str, Option]) -> dict[str, Any]:
    given = {}
    for option in options.values():
        if option.positional and rest:
            taken, rest = (rest, []) if option.many else (rest[:1], rest[1:])
            given[option.name] = option.parse(taken)
    if rest:
        raise UserError(
            f"{quoted(rest[0])} is a word too many: values follow their option, as in --name VALUE"
        )
    return given
