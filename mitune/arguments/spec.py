"""The options of a verb, from its dataclass."""

import ast
import dataclasses
import functools
import inspect
import textwrap
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from mitune.arguments.fields import Former, Mark, Shown
from mitune.arguments.option import Option


@functools.cache
def options(verb: type) -> dict[str, Option]:
    """The options by field name: the verb's own first, then those of its bases in their order.

    Args:
        verb: a dataclass. The text under a field is its help; the attribute ``GROUP`` of the class
            that declares a field is its heading. Fields that are dataclasses themselves are not
            options.
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
    found = {}
    for field in fields:
        if dataclasses.is_dataclass(hints[field.name]):  # only for calls from Python
            continue
        home = homes[field.name]
        group: str = vars(home).get("GROUP", "options")
        words = _docstrings(home).get(field.name, "")
        found[field.name] = _option(field, hints[field.name], group, words)
    return found


def _option(field: "dataclasses.Field[Any]", hint: Any, group: str, words: str) -> Option:
    extras: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        extras = tuple(rest)
    kinds, count, many, optional = _type(hint)
    return Option(
        name=field.name,
        words=words,
        group=group,
        kinds=kinds,
        count=count,
        many=many,
        optional=optional,
        default=field.default,
        positional=Mark.POSITIONAL in extras,
        repeated=Mark.REPEATED in extras,
        shown=next((extra for extra in extras if isinstance(extra, Shown)), None),
        former=next((extra.name for extra in extras if isinstance(extra, Former)), None),
    )


def _type(hint: Any) -> tuple[tuple[Any, ...], int | None, bool, bool]:
    """(kinds, count, many, optional) of ``Option``."""
    if get_origin(hint) in (Union, types.UnionType):
        members = [member for member in get_args(hint) if member is not type(None)]
        if len(members) < len(get_args(hint)):
            rest = functools.reduce(lambda a, b: a | b, members)
            return *_type(rest)[:3], True
        return tuple(kind for member in members for kind in _kinds(member)), 1, False, False
    if get_origin(hint) is tuple:
        first, *others = get_args(hint)
        return _kinds(first), None if others == [...] else 1 + len(others), True, False
    if get_origin(hint) is list:
        return _kinds(get_args(hint)[0]), None, True, False
    return _kinds(hint), 1, False, False


def _kinds(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    if hint not in (bool, int, float, str, Path):
        raise TypeError(f"an option cannot be a {hint}")
    return (hint,)


@functools.cache
def _docstrings(owner: type) -> dict[str, str]:
    """The text under each field of a class, on one line; empty if the source is not installed."""
    try:
        source = textwrap.dedent(inspect.getsource(owner))
    except OSError:
        return {}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found
