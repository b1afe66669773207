"""The verbs of the command line: each a dataclass whose fields are its options and whose ``run``
does the work."""

from collections.abc import Callable
from typing import Any, Protocol

from mitune.cli.commands.give import Export, Merge
from mitune.cli.commands.judge import Doctor, Eval, Score
from mitune.cli.commands.make import Align, Build, Real, Tune
from mitune.cli.commands.measure import Bench


class Command(Protocol):
    """What ``mitune.cli`` runs."""

    @property
    def json(self) -> bool:
        """Whether programs listen too."""
        ...

    def run(self) -> dict[str, Any]:
        """Do it, tell people on stdout, and return the same for programs, as plain JSON."""
        ...


COMMANDS: dict[str, Callable[..., Command]] = {
    "align": Align,
    "build": Build,
    "real": Real,
    "tune": Tune,
    "score": Score,
    "eval": Eval,
    "export": Export,
    "merge": Merge,
    "bench": Bench,
    "doctor": Doctor,
}
