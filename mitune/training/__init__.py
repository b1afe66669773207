"""Fine-tune an adapter on the kept (prompt, latent) pairs (MI-Tune, Algorithm 1, last line)."""

from typing import TYPE_CHECKING

from mitune.core.lazy import lazy

if TYPE_CHECKING:
    from mitune.config.training import TuneConfig
    from mitune.training.callbacks import Watch
    from mitune.training.loop import tune
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "TuneConfig": "mitune.config.training",
            "Watch": "mitune.training.callbacks",
            "tune": "mitune.training.loop",
        },
    )

__all__ = ["TuneConfig", "Watch", "tune"]
