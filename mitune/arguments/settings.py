"""The options of a configuration object: its fields, and those of the objects in it."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_type_hints

from mitune.arguments.fields import FieldsOf, Shown
from mitune.arguments.option import Option
from mitune.arguments.source import docstrings, type_of


def of_config(of: FieldsOf, holder: str) -> Iterator[Option]:
    """The options of ``of.config``, whose values the verb's field ``holder`` holds. None of them
    has a default of its own: what is not given stays as the object has it."""
    yield from _of(of, holder, of.config, ())


def _of(of: FieldsOf, holder: str, config: type, at: tuple[str, ...]) -> Iterator[Option]:
    """Fields before parts, as ``mitune.config.options`` places what is given."""
    hints = get_type_hints(config)
    words = docstrings(config)
    parts: list[tuple[Any, tuple[str, ...]]] = []
    for field in dataclasses.fields(config):
        hint, path = hints[field.name], (*at, field.name)
        if dataclasses.is_dataclass(hint):
            parts.append((hint, path))
        elif field.name not in of.without:
            kinds, count, many, optional = type_of(hint)
            yield Option(
                name=field.name,
                words=words.get(field.name, ""),
                group=of.groups.get(config, "options"),
                kinds=kinds,
                count=count,
                many=many,
                optional=optional,
                default=None,
                shown=_shown(of, config, path),
                former=of.former.get(field.name),
                holder=holder,
            )
    for part, path in parts:
        yield from _of(of, holder, part, path)


def _shown(of: FieldsOf, config: type, path: tuple[str, ...]) -> Shown:
    """What the help shows: one value, or each with the name of what it belongs to."""
    name = path[-1]
    if (text := of.shown.get(name)) is not None:
        return Shown(lambda: text)
    if (leader := getattr(config, "FOLLOWS", {}).get(name)) is not None:
        return Shown(lambda: f"--{leader}")
    return Shown(lambda: default_text(of.defaults(), path))


def default_text(defaults: Mapping[str, Any], path: Sequence[str]) -> str:
    """The value at ``path`` in each of ``defaults``: one if they agree, else each with its key. The
    last stands for all that have the same."""
    texts = {}
    for whose, value in defaults.items():
        for name in path:
            value = getattr(value, name)
        texts[whose] = _plain(value)
    last, rest = texts.popitem()
    others = {whose: text for whose, text in texts.items() if text != rest}
    if not others:
        return rest
    each = ", ".join(f"{whose}: {text}" for whose, text in [*others.items(), (last, rest)])
    return f"the model's preset ({each})"


def _plain(value: Any) -> str:
    """A value as it is given on a command line."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
