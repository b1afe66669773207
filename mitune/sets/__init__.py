"""The fine-tuning set: every candidate's score, the kept candidates' latents, appended exactly
once.
"""

from mitune.sets.reader import FineTuningSet
from mitune.sets.select import RULES, select
from mitune.sets.writer import SetWriter

__all__ = ["RULES", "FineTuningSet", "SetWriter", "select"]
