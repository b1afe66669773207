"""Generating candidates and scoring them on the way."""

from typing import TYPE_CHECKING

from mitune.core.lazy import lazy

if TYPE_CHECKING:
    from mitune.config.sampling import SamplerConfig
    from mitune.engine.engine import Engine
    from mitune.engine.prompt_encoder import PromptEncoder
    from mitune.engine.request import EngineStats, Request
    from mitune.engine.stream import Ready, check_run, generate, pool
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "EngineStats": "mitune.engine.request",
            "Engine": "mitune.engine.engine",
            "PromptEncoder": "mitune.engine.prompt_encoder",
            "Ready": "mitune.engine.stream",
            "SamplerConfig": "mitune.config.sampling",
            "Request": "mitune.engine.request",
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
