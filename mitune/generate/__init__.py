"""Generating candidates and scoring them on the way."""

from typing import TYPE_CHECKING

from mitune.lazy import lazy

if TYPE_CHECKING:
    from mitune.generate.candidates import Ready, check_run, generate, pool
    from mitune.generate.engine import Counts, Engine, PromptEncoder, Work
    from mitune.sampler import SamplerConfig
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "Counts": "mitune.generate.engine",
            "Engine": "mitune.generate.engine",
            "PromptEncoder": "mitune.generate.engine",
            "Ready": "mitune.generate.candidates",
            "SamplerConfig": "mitune.sampler",
            "Work": "mitune.generate.engine",
            "check_run": "mitune.generate.candidates",
            "generate": "mitune.generate.candidates",
            "pool": "mitune.generate.candidates",
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
