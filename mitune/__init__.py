"""MI-Tune: align a text-to-image model with itself by the point-wise mutual information of prompt
and image.

    model = mitune.load("shapes")
    mitune.align(model, prompts, "runs/first")
"""

# ruff: noqa: E402
from mitune import environment

environment.prepare()  # before anything imports torch

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
