"""Settings by flat names: what Python's keywords, the command line and a file give, in one
configuration object, whose parts may be such objects themselves."""

import dataclasses
import functools
import numbers
import types
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mitune.core.errors import UserError

_Config = TypeVar("_Config")

FORMER = {"settle": "recheck_ties", "captured": "cuda_graphs"}
"""Names that options had before 0.2."""


def with_options(config: _Config, options: Mapping[str, Any]) -> _Config:
    """``config`` with each option in its field, or in that of the first part that has it.

    Args:
        config: a frozen dataclass.
        options: by name. None leaves a value as it is: that of the model's preset, mostly. A field
            that ``config.FOLLOWS`` names takes the value of the option that it follows, unless it
            is given too.

    Raises:
        UserError: a value out of range.
        TypeError: a name that there is not, as Python says it of a keyword.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for former in given.keys() & FORMER.keys() - names(config):
        warnings.warn(f"{former} is called {FORMER[former]} now", DeprecationWarning, 3)
        given[FORMER[former]] = given.pop(former)
    if unknown := sorted(given.keys() - names(config)):
        raise TypeError(f"got an unexpected option {unknown[0]!r}; expected those of {config!r}")
    for field, leader in getattr(config, "FOLLOWS", {}).items():
        if leader in given:
            given.setdefault(field, given[leader])
    made: _Config = _placed(config, given)
    return made


def former(options: dict[str, Any], name: str, value: Any, now: str) -> Any:
    """``value`` of the argument ``now``; or what stands in ``options`` under its former ``name``,
    which is taken out."""
    if name not in options:
        return value
    warnings.warn(f"{name} is called {now} now", DeprecationWarning, 3)
    return options.pop(name)


def names(config: Any) -> set[str]:
    """The options of a configuration object: its fields, and those of its parts."""
    found = set()
    for field in dataclasses.fields(config):
        found.add(field.name)
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= names(value)
    return found


def check_types(config: Any) -> None:
    """Raise UserError for a field whose value is of another type than it is declared with, such as
    a text in the place of a number. Words to choose from are checked by ``check_choice``, except
    those that may stand in the place of a number."""
    kind: Any = type(config)  # mypy does not see that a class is hashable
    for name, kinds in _kinds(kind).items():
        value = getattr(config, name)
        mixed = sum(kind is not type(None) for kind in kinds) > 1
        if not any(_is(value, kind, mixed) for kind in kinds):
            wanted = " or ".join(dict.fromkeys(_told(kind, mixed) for kind in kinds))
            raise UserError(f"{name} is {value!r}: expected {wanted}")


@functools.cache
def _kinds(config: type) -> dict[str, tuple[Any, ...]]:
    """The types that each field may have."""
    hints = get_type_hints(config)
    found = {}
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        union = get_origin(hint) in (Union, types.UnionType)
        found[field.name] = get_args(hint) if union else (hint,)
    return found


def _is(value: Any, kind: Any, mixed: bool) -> bool:
    origin = get_origin(kind)
    if origin is Literal and mixed:
        return value in get_args(kind)
    if origin is Literal:
        return isinstance(value, type(get_args(kind)[0]))
    if origin is tuple:
        return isinstance(value, Sequence) and not isinstance(value, str)
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, kind)


def _told(kind: Any, mixed: bool) -> str:
    if get_origin(kind) is Literal and mixed:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) is Literal:
        return "a text" if isinstance(get_args(kind)[0], str) else "a number"
    if get_origin(kind) is tuple:
        return "a tuple"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return names.get(kind, "None" if kind is type(None) else f"a {kind.__name__}")


def check_positive(**counts: int | None) -> None:
    """Raise UserError for a number below 1, by its name."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}: expected at least 1")


def check_seed(seed: int) -> None:
    """Raise UserError unless ``seed`` fits a set's int64."""
    if not 0 <= seed < 2**63:
        raise UserError(f"seed is {seed}: expected 0 <= seed < 2**63")


def _placed(config: Any, given: dict[str, Any]) -> Any:
    """Takes what it places out of ``given``."""
    changes = {
        field.name: given.pop(field.name)
        for field in dataclasses.fields(config)
        if field.name in given
    }
    for field in dataclasses.fields(config):
        part = changes.get(field.name, getattr(config, field.name))
        if given and dataclasses.is_dataclass(part):
            changes[field.name] = _placed(part, given)
    return dataclasses.replace(config, **changes) if changes else config
