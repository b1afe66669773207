"""The command line, none of which imports torch before a verb runs."""

from typing import TYPE_CHECKING

from mitune.core.lazy import lazy

if TYPE_CHECKING:
    from mitune.cli.program import main
else:
    __getattr__, __dir__ = lazy(__name__, {"main": "mitune.cli.program"})

__all__ = ["main"]
