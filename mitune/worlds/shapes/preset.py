"""The default settings of the shipped embedded model, available without importing torch."""

from dataclasses import replace

from mitune.config.preset import PAPER, Preset
from mitune.config.sampling import SamplerConfig

PRESET: Preset = replace(
    PAPER,
    candidates=24,
    keep=2,
    estimator="standard",
    draws=16,
    sampler=SamplerConfig(steps=25, guidance=1.0, t_min=500),
    use_guidance=3.0,
    tuning=replace(
        PAPER.tuning,
        lr=3e-4,
        lr_scheduler="linear",
        t_range=(500, 1000),
        batch=30,
        micro_batch=30,
        iterations=120,
    ),
)
"""Pools are drawn without guidance, where MI sees most, and the tuned model is used at the guidance
at which the model draws best. MODEL_CARD.md in the folder of the weights and docs/log.md have the
measurements."""
