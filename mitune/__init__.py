"""MI-Tune: align a text-to-image model with itself by the point-wise mutual information of prompt
and image.

The public names are loaded when first used: ``import mitune.noise`` must not cost the import of
diffusers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mitune.align import align
    from mitune.build import build_set
    from mitune.candidate import Candidate
    from mitune.errors import UserError
    from mitune.generate import generate
    from mitune.load import load
    from mitune.sampler import SamplerConfig
    from mitune.schedule import Schedule
    from mitune.score import score
    from mitune.sets import FineTuningSet
    from mitune.tuning import TuneConfig, tune

__version__ = "0.1.0"

_HOMES = {
    "Candidate": "mitune.candidate",
    "FineTuningSet": "mitune.sets",
    "SamplerConfig": "mitune.sampler",
    "Schedule": "mitune.schedule",
    "TuneConfig": "mitune.tuning",
    "UserError": "mitune.errors",
    "align": "mitune.align",
    "build_set": "mitune.build",
    "generate": "mitune.generate",
    "load": "mitune.load",
    "score": "mitune.score",
    "tune": "mitune.tuning",
}

__all__ = [
    "Candidate",
    "FineTuningSet",
    "SamplerConfig",
    "Schedule",
    "TuneConfig",
    "UserError",
    "align",
    "build_set",
    "generate",
    "load",
    "score",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mitune' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
