"""MI-Tune: align a text-to-image model with itself by the point-wise mutual information of prompt
and image.

    model = mitune.load("shapes")
    mitune.align(model, prompts, "runs/first")
"""

from typing import TYPE_CHECKING

from mitune import environment
from mitune.lazy import lazy

environment.prepare()  # before anything imports torch

if TYPE_CHECKING:
    from mitune.align import align
    from mitune.build import build_set
    from mitune.candidate import Candidate
    from mitune.errors import UserError
    from mitune.generate import generate
    from mitune.load import load
    from mitune.real import build_real_set
    from mitune.sampler import SamplerConfig
    from mitune.schedule import Schedule
    from mitune.score import score
    from mitune.sets import FineTuningSet
    from mitune.tuning import TuneConfig, tune
else:  # a type checker would take __getattr__ for a promise of every name
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "align": "mitune.align",
            "build_set": "mitune.build",
            "Candidate": "mitune.candidate",
            "UserError": "mitune.errors",
            "generate": "mitune.generate",
            "load": "mitune.load",
            "build_real_set": "mitune.real",
            "SamplerConfig": "mitune.sampler",
            "Schedule": "mitune.schedule",
            "score": "mitune.score",
            "FineTuningSet": "mitune.sets",
            "TuneConfig": "mitune.tuning.config",
            "tune": "mitune.tuning",
        },
    )

__version__ = "0.1.0"

__all__ = [
    "Candidate",
    "FineTuningSet",
    "SamplerConfig",
    "Schedule",
    "TuneConfig",
    "UserError",
    "align",
    "build_real_set",
    "build_set",
    "generate",
    "load",
    "score",
    "tune",
]
