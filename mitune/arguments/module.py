"""Programs that are started as ``python -m mitune.SOMETHING`` and are not verbs: studies, and those
that make the package's own data."""

import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from mitune.arguments.parser import Asked, parse
from mitune.core import process
from mitune.core.errors import UserError

Made = TypeVar("Made")


def run_module(kind: Callable[..., Made], run: Callable[[Made], object]) -> NoReturn:
    """Parse this process's words into the dataclass ``kind``, give it to ``run``, and exit.

    The exit codes are those of ``mitune``: 2 and one line after a user error, 130 after an
    interrupt, 143 after SIGTERM.
    """
    found = sys.modules["__main__"].__spec__
    assert found is not None
    program = f"python -m {found.name.removesuffix('.__main__')}"
    process.own(lambda: _run(kind, run, program))


def _run(kind: Callable[..., Made], run: Callable[[Made], object], program: str) -> None:
    try:
        run(parse(sys.argv[1:], kind, program=program))
    except Asked as asked:
        print(asked, flush=True)
    except UserError as error:
        print(f"mitune: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as stop:
        word, code = "interrupted", process.INTERRUPTED
        if isinstance(stop, process.Terminated):
            word, code = "terminated", process.TERMINATED
        print(f"mitune: {word}; finished work is kept", file=sys.stderr)
        raise SystemExit(code) from None
