"""Generating candidates and scoring them on the way."""

from typing import TYPE_CHECKING

from mitune.core.lazy import lazy

if TYPE_CHECKING:
    from mitune.config.sampling import SamplerConfig
    from mitune.engine.engine import Counts, Engine, PromptEncoder, Work
    from mitune.engine.stream import Ready, check_run, generate, pool
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "Counts": "mitune.engine.engine",
            "Engine": "mitune.engine.engine",
            "PromptEncoder": "mitune.engine.engine",
            "Ready": "mitune.engine.stream",
            "SamplerConfig": "mitune.config.sampling",
            "Work": "mitune.engine.engine",
            "check_run": "mitune.engine.stream",
            "generate": "mitune.engine.stream",
            "pool": "mitune.engine.stream",
        },
    )

__all__ = [
    "Counts",
    "Engine",
    "PromptEncoder",
    "Ready",
    "SamplerConfig",
    "Work",
    "check_run",
    "generate",
    "pool",
]
