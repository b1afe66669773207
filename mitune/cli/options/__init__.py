"""Options that several verbs share: of a verb's work from its configuration object (``settings``),
of everything else from dataclasses that the verbs inherit."""

from mitune.cli.options.model import Common, Output, Source
from mitune.cli.options.pool import Pool, Pruned

__all__ = ["Common", "Output", "Pool", "Pruned", "Source"]
