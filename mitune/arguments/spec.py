"""The options of a verb, from its dataclass."""

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from mitune.arguments.fields import FieldsOf, Former, Mark, Shown
from mitune.arguments.option import Option
from mitune.arguments.settings import of_config
from mitune.arguments.source import docstrings, type_of


@functools.cache
def options(verb: type) -> dict[str, Option]:
    """The options by field name: the verb's own first, then those of its bases in their order.

    Args:
        verb: a dataclass. The text under a field is its help; the attribute ``GROUP`` of the class
            that declares a field is its heading. A field with ``FieldsOf`` stands for the options
            of a configuration object. Fields that are dataclasses themselves are not options.
    """
    hints = get_type_hints(verb, include_extras=True)
    homes = {
        field.name: next(
            owner
            for owner in verb.__mro__
            if dataclasses.is_dataclass(owner) and field.name in inspect.get_annotations(owner)
        )
        for field in dataclasses.fields(verb)
    }
    fields = sorted(dataclasses.fields(verb), key=lambda f: verb.__mro__.index(homes[f.name]))
    found: dict[str, Option] = {}
    for field in fields:
        if dataclasses.is_dataclass(hints[field.name]):  # only for calls from Python
            continue
        if (of := _fields_of(hints[field.name])) is not None:
            for option in of_config(of, field.name):
                found.setdefault(option.name, option)
            continue
        home = homes[field.name]
        group: str = vars(home).get("GROUP", "options")
        words = docstrings(home).get(field.name, "")
        found[field.name] = _option(field, hints[field.name], group, words)
    return found


def gathered(verb: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``verb`` for the options' values: those of a configuration object together
    in the field that holds them."""
    known = options(verb)
    made: dict[str, Any] = {}
    for name, value in values.items():
        if (holder := known[name].holder) is None:
            made[name] = value
        else:
            made.setdefault(holder, {})[name] = value
    return made


def value_of(command: object, option: Option) -> Any:
    """What ``command`` was given for an option; None for one of ``FieldsOf`` that was not given."""
    if option.holder is None:
        return getattr(command, option.name)
    return getattr(command, option.holder).get(option.name)


def _fields_of(hint: Any) -> FieldsOf | None:
    extras = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((extra for extra in extras if isinstance(extra, FieldsOf)), None)


def _option(field: "dataclasses.Field[Any]", hint: Any, group: str, words: str) -> Option:
    extras: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        extras = tuple(rest)
    kinds, count, many, optional = type_of(hint)
    made = field.default_factory
    return Option(
        name=field.name,
        words=words,
        group=group,
        kinds=kinds,
        count=count,
        many=many,
        optional=optional,
        default=field.default if made is dataclasses.MISSING else made(),
        positional=Mark.POSITIONAL in extras,
        repeated=Mark.REPEATED in extras,
        shown=next((extra for extra in extras if isinstance(extra, Shown)), None),
        former=next((extra.name for extra in extras if isinstance(extra, Former)), None),
    )
