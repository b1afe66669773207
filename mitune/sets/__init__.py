"""The fine-tuning set on disk: the scores of all candidates and the latents of the kept ones. Each
candidate is written exactly once.
"""

from mitune.sets.reader import FineTuningSet
from mitune.sets.select import RULES, select
from mitune.sets.writer import SetWriter

__all__ = ["RULES", "FineTuningSet", "SetWriter", "select"]
