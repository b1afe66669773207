"""What an annotation can say about an option besides its type."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, TypeVar

T = TypeVar("T")


class Mark(Enum):
    """How an option is given."""

    POSITIONAL = "without its name"
    REPEATED = "its name once for each value"


Positional = Annotated[T, Mark.POSITIONAL]
Repeated = Annotated[T, Mark.REPEATED]


@dataclass(frozen=True)
class Shown:
    """Of an option whose own default is None: what stands in for it."""

    text: Callable[[], str]
    """For the help, which alone asks for it."""


@dataclass(frozen=True)
class Former:
    """The name that an option had before, under which it is still taken for one version."""

    name: str


def stands_for(text: str) -> Shown:
    """None comes to what ``text`` says."""
    return Shown(lambda: text)
