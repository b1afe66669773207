"""From the options of a verb to the configuration object that its work takes."""

from dataclasses import fields
from typing import Any, TypeVar

from mitune.config.options import names, with_options

_Config = TypeVar("_Config")


def given(verb: Any, config: Any, **instead: Any) -> dict[str, Any]:
    """The options of ``verb`` that ``config`` has, by name.

    Args:
        verb: a dataclass of ``mitune.cli.commands``.
        config: a dataclass of ``mitune.config``; its parts' names count too.
        instead: values in the place of the verb's own.
    """
    known = names(config)
    own = {field.name: getattr(verb, field.name) for field in fields(verb) if field.name in known}
    return own | instead


def configured(verb: Any, config: _Config, **instead: Any) -> _Config:
    """``config`` with the options that ``verb`` was given."""
    return with_options(config, given(verb, config, **instead))
