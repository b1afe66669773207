"""The first edition's default settings, available without importing torch."""

from dataclasses import replace

from mitune.config.preset import PAPER, Preset
from mitune.config.sampling import SamplerConfig

PRESET: Preset = replace(
    PAPER,
    candidates=16,
    keep=2,
    estimator="standard",
    draws=12,
    sampler=SamplerConfig(steps=25, guidance=1.0, t_min=400),
    use_guidance=1.0,
    tuning=replace(
        PAPER.tuning,
        lr=2e-3,
        lr_scheduler="linear",
        t_range=(400, 1000),
        batch=30,
        micro_batch=30,
        iterations=160,
    ),
)
"""MODEL_CARD.md in the folder of the weights and docs/log.md explain why these settings differ from
the paper's."""
