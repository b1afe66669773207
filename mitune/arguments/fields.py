"""What an annotation can say about an option besides its type."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, TypeVar

T = TypeVar("T")


class Mark(Enum):
    """How an option is given on the command line."""

    POSITIONAL = "without its name"
    REPEATED = "its name once for each value"


Positional = Annotated[T, Mark.POSITIONAL]
Repeated = Annotated[T, Mark.REPEATED]


@dataclass(frozen=True)
class Shown:
    """What the help shows as the default of an option whose own default is None."""

    text: Callable[[], str]
    """Called only when the help is shown."""


@dataclass(frozen=True)
class Former:
    """The former name of an option; it is accepted for one more version."""

    name: str


def stands_for(text: str) -> Shown:
    """The help shows ``text`` as the default in place of None."""
    return Shown(lambda: text)


Given = Mapping[str, Any]
"""Of a field with ``FieldsOf``: the options that were given, by name."""


@dataclass(frozen=True, kw_only=True)
class FieldsOf:
    """The options of this field are the fields of a configuration object and of the objects in it,
    with their help. The field itself is a ``Given``."""

    config: type
    """A dataclass. A name that occurs twice in it is one option."""
    defaults: Callable[[], Mapping[str, Any]]
    """Whose values the help shows as defaults: configuration objects by the name of what they
    belong to. Called only when the help is shown."""
    without: frozenset[str] = frozenset()
    """Fields that are no options."""
    groups: Mapping[type, str] = field(default_factory=dict)
    """The headings, by the dataclass that declares a field."""
    shown: Mapping[str, str] = field(default_factory=dict)
    """What the help shows in the place of a default, by name."""
    former: Mapping[str, str] = field(default_factory=dict)
    """Former names that are still accepted, by the name of today."""
