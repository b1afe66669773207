"""The default settings of the second edition's model, available without importing torch."""

from dataclasses import replace

from mitune.config.preset import Preset
from mitune.worlds.shapes import preset

PRESET: Preset = replace(
    preset.PRESET,
    candidates=24,
    keep=2,
    draws=16,
    sampler=replace(preset.PRESET.sampler, guidance=1.0, t_min=500),
    use_guidance=3.0,
    tuning=replace(preset.PRESET.tuning, lr=3e-4, t_range=(500, 1000), iterations=120),
)
"""Pools are drawn without guidance, where MI sees most, and the tuned model is used at the guidance
at which the model draws best. MODEL_CARD.md in the folder of the weights and docs/log.md have the
measurements."""
