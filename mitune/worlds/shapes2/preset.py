"""The default settings of the second edition's model, available without importing torch."""

from dataclasses import replace

from mitune.config.preset import Preset
from mitune.worlds.shapes import preset

PRESET: Preset = replace(
    preset.PRESET,
    candidates=32,
    sampler=replace(preset.PRESET.sampler, guidance=2.0),
    use_guidance=2.0,
)
"""Those of the first edition, at the guidance at which the model draws best."""
