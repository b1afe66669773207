"""What a dataclass says about its fields: the types of their values, and the text under each."""

import ast
import functools
import inspect
import textwrap
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin


def type_of(hint: Any) -> tuple[tuple[Any, ...], int | None, bool, bool]:
    """(kinds, count, many, optional) of ``Option``."""
    if get_origin(hint) in (Union, types.UnionType):
        members = [member for member in get_args(hint) if member is not type(None)]
        if len(members) < len(get_args(hint)):
            rest = functools.reduce(lambda a, b: a | b, members)
            return *type_of(rest)[:3], True
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
def docstrings(owner: type) -> dict[str, str]:
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
            found[field.target.id] = " ".join(str(text.value.value).replace("``", "").split())
    return found
