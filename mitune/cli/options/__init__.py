"""Options that several verbs share. None as a default always means the model's own preset (the
paper's numbers)."""

from mitune.cli.options.model import Common, Output, Running, Source
from mitune.cli.options.sampling import Pool, Pruned, Sampling
from mitune.cli.options.training import Tuning

__all__ = ["Common", "Output", "Pool", "Pruned", "Running", "Sampling", "Source", "Tuning"]
