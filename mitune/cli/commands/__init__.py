"""The verbs of the command line: each a dataclass whose fields are its options and whose ``run``
does the work."""

from collections.abc import Callable
from typing import Any, Protocol

from mitune.cli.commands.align import Align
from mitune.cli.commands.bench import Bench
from mitune.cli.commands.build import Build
from mitune.cli.commands.doctor import Doctor
from mitune.cli.commands.eval import Eval
from mitune.cli.commands.export import Export
from mitune.cli.commands.generate import Generate
from mitune.cli.commands.merge import Merge
from mitune.cli.commands.plan import Plan
from mitune.cli.commands.push import Push
from mitune.cli.commands.real import Real
from mitune.cli.commands.report import Report
from mitune.cli.commands.score import Score
from mitune.cli.commands.sets import Set
from mitune.cli.commands.study import Study
from mitune.cli.commands.survey import Survey
from mitune.cli.commands.trying import Try
from mitune.cli.commands.tune import Tune


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
    "generate": Generate,
    "export": Export,
    "merge": Merge,
    "push": Push,
    "plan": Plan,
    "set": Set,
    "report": Report,
    "study": Study,
    "survey": Survey,
    "try": Try,
    "bench": Bench,
    "doctor": Doctor,
}
