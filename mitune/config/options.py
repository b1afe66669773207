"""Settings by flat names: what Python's keywords, the command line and a file give, in one
configuration object, whose parts may be such objects themselves."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

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
