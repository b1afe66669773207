"""MI-Tune: align a text-to-image model with itself by the point-wise mutual information of prompt
and image.

    model = mitune.load("shapes")
    mitune.align(model, prompts, "runs/first")
"""

from typing import TYPE_CHECKING

from mitune.core import environment
from mitune.core.lazy import lazy
from mitune.moved import find_by_former_names

environment.prepare()  # before anything imports torch
find_by_former_names()

if TYPE_CHECKING:
    from mitune.config.align import AlignConfig
    from mitune.config.pruning import PruneConfig
    from mitune.config.runtime import Runtime
    from mitune.config.sampling import SamplerConfig
    from mitune.config.sets import BuildConfig, GenerateConfig, RealConfig, ScoreConfig
    from mitune.config.training import TuneConfig
    from mitune.core.errors import UserError
    from mitune.diffusion.schedule import Schedule
    from mitune.engine.candidate import Candidate
    from mitune.engine.stream import generate
    from mitune.load import load
    from mitune.methods.align import align
    from mitune.methods.build import build_set
    from mitune.methods.hub import push_to_hub
    from mitune.methods.pictures import export_pictures
    from mitune.methods.real import build_real_set
    from mitune.pipelines.best_of import best_of
    from mitune.pipelines.guider import guider
    from mitune.pipelines.score import score
    from mitune.sets import FineTuningSet
    from mitune.training.loop import tune
else:  # a type checker would take __getattr__ for a promise of every name
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "align": "mitune.methods.align",
            "build_set": "mitune.methods.build",
            "Candidate": "mitune.engine.candidate",
            "UserError": "mitune.core.errors",
            "generate": "mitune.engine.stream",
            "push_to_hub": "mitune.methods.hub",
            "load": "mitune.load",
            "build_real_set": "mitune.methods.real",
            "export_pictures": "mitune.methods.pictures",
            "AlignConfig": "mitune.config.align",
            "BuildConfig": "mitune.config.sets",
            "GenerateConfig": "mitune.config.sets",
            "PruneConfig": "mitune.config.pruning",
            "RealConfig": "mitune.config.sets",
            "Runtime": "mitune.config.runtime",
            "SamplerConfig": "mitune.config.sampling",
            "ScoreConfig": "mitune.config.sets",
            "Schedule": "mitune.diffusion.schedule",
            "score": "mitune.pipelines.score",
            "best_of": "mitune.pipelines.best_of",
            "guider": "mitune.pipelines.guider",
            "FineTuningSet": "mitune.sets",
            "TuneConfig": "mitune.config.training",
            "tune": "mitune.training.loop",
        },
    )

__version__ = "0.1.0"

__all__ = [
    "AlignConfig",
    "BuildConfig",
    "Candidate",
    "FineTuningSet",
    "GenerateConfig",
    "PruneConfig",
    "RealConfig",
    "Runtime",
    "SamplerConfig",
    "Schedule",
    "ScoreConfig",
    "TuneConfig",
    "UserError",
    "align",
    "best_of",
    "build_real_set",
    "build_set",
    "export_pictures",
    "generate",
    "guider",
    "load",
    "push_to_hub",
    "score",
    "tune",
]
