"""The loops that ours is measured against, stated plainly."""

from mitune.bench.baselines.loops import AuthorsLoop, FairLoop
from mitune.bench.baselines.trainers import AuthorsTrainer, FairTrainer

__all__ = ["AuthorsLoop", "AuthorsTrainer", "FairLoop", "FairTrainer"]
