"""Generating candidates and scoring them on the way."""

from mitune.generate.candidates import Ready, check_run, generate, pool
from mitune.generate.engine import Counts, Engine, PromptEncoder, Work
from mitune.sampler import SamplerConfig

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
