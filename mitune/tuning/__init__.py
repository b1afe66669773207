"""Fine-tuning an adapter on the kept (prompt, latent) pairs (MI-Tune, Algorithm 1, last line)."""

from mitune.tuning.config import TuneConfig
from mitune.tuning.loop import tune
from mitune.tuning.watch import Watch

__all__ = ["TuneConfig", "Watch", "tune"]
