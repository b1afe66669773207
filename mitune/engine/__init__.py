"""Generating candidates and scoring them on the way."""

from typing import TYPE_CHECKING

from mitune.core.lazy import lazy

if TYPE_CHECKING:
    from mitune.config.sampling import SamplerConfig
    from mitune.engine.engine import Engine, EngineStats, PromptEncoder, Request
    from mitune.engine.stream import Ready, check_run, generate, pool
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "EngineStats": "mitune.engine.engine",
            "Engine": "mitune.engine.engine",
            "PromptEncoder": "mitune.engine.engine",
            "Ready": "mitune.engine.stream",
            "SamplerConfig": "mitune.config.sampling",
            "Request": "mitune.engine.engine",
            "check_run": "mitune.engine.stream",
            "generate": "mitune.engine.stream",
            "pool": "mitune.engine.stream",
        },
    )

__all__ = [
    "Engine",
    "EngineStats",
    "PromptEncoder",
    "Ready",
    "Request",
    "SamplerConfig",
    "check_run",
    "generate",
    "pool",
]
