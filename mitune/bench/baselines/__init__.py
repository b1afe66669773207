"""The loops with which ours are compared."""

from mitune.bench.baselines.loops import AuthorsLoop, FairLoop
from mitune.bench.baselines.trainers import AuthorsTrainer, FairTrainer

__all__ = ["AuthorsLoop", "AuthorsTrainer", "FairLoop", "FairTrainer"]
