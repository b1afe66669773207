"""What an annotation can say about an option besides its type."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, TypeVar

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
