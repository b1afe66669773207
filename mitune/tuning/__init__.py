"""Fine-tuning an adapter on the kept (prompt, latent) pairs (MI-Tune, Algorithm 1, last line)."""

from typing import TYPE_CHECKING

from mitune.lazy import lazy

if TYPE_CHECKING:
    from mitune.tuning.config import TuneConfig
    from mitune.tuning.loop import tune
    from mitune.tuning.watch import Watch
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "TuneConfig": "mitune.tuning.config",
            "Watch": "mitune.tuning.watch",
            "tune": "mitune.tuning.loop",
        },
    )

__all__ = ["TuneConfig", "Watch", "tune"]
