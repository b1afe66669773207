"""The options of a verb that are the settings of its work: the fields of its configuration object,
which are written once, in ``mitune.config``."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from mitune.arguments.fields import FieldsOf
from mitune.config.align import AlignConfig
from mitune.config.options import FORMER, names, with_options
from mitune.config.preset import PAPER, Preset
from mitune.config.pruning import PruneConfig
from mitune.config.runtime import Runtime
from mitune.config.sampling import SamplerConfig
from mitune.config.sets import BuildConfig, RealConfig, ScoreConfig
from mitune.config.training import TuneConfig

_Config = TypeVar("_Config")

HEADINGS: Mapping[type, str] = {
    AlignConfig: "training",
    BuildConfig: "selection",
    PruneConfig: "pruning (not exact; needs --estimator trajectory)",
    RealConfig: "selection",
    Runtime: "model",
    SamplerConfig: "sampling",
    ScoreConfig: "scores",
    TuneConfig: "training",
}
PYTHONS = frozenset(
    {"implementation", "eta", "shared_noise", "betas", "weight_decay", "eps", "clip"}
    | {"checkpoint_every", "keep_checkpoints", "calibration", "least_recall"}
)
"""Settings for callers from Python: the optimizer's own numbers, and what benches choose."""
LOADED = frozenset({"precision"})
"""What every verb has as an option of loading the model (``Common``)."""


def settings_of(
    config: type,
    defaults: Callable[[], Mapping[str, Any]],
    without: set[str] | None = None,
    **shown: str,
) -> FieldsOf:
    """The settings of ``config`` that are options.

    Args:
        config: of ``mitune.config``.
        defaults: see ``FieldsOf``.
        without: fields that are no options, beside PYTHONS and LOADED.
        shown: what the help shows in the place of a default, by name.
    """
    return FieldsOf(
        config=config,
        defaults=defaults,
        without=PYTHONS | LOADED | (without or set()),
        groups=HEADINGS,
        shown=shown,
        former={now: former for former, now in FORMER.items()},
    )


def of_presets(of: Callable[[Any], Any]) -> Callable[[], Mapping[str, Any]]:
    """The defaults of a configuration object that ``of`` makes of a model's preset."""

    return lambda: {whose: of(preset) for whose, preset in presets().items()}


def presets() -> Mapping[str, Preset]:
    """Those that the help distinguishes."""
    from mitune.models.family import families
    from mitune.worlds.known import WORLDS

    own = {f.pipeline.removesuffix("Pipeline"): f.preset for f in families() if f.preset != PAPER}
    worlds = {world.name: world.preset for world in WORLDS.values()}
    return {**worlds, **own, "others": PAPER}


def of_one(config: Any) -> Callable[[], Mapping[str, Any]]:
    """The defaults of a configuration object that is the same for all models."""
    return lambda: {"all": config}


def given(verb: Any, config: Any, **instead: Any) -> dict[str, Any]:
    """The options of ``verb`` that ``config`` has, by name.

    Args:
        verb: a dataclass of ``mitune.cli.commands``; its ``settings``, and the other fields whose
            names are known.
        config: a dataclass of ``mitune.config``; its parts' names count too.
        instead: values in the place of the verb's own.
    """
    known = names(config)
    own = {field.name: getattr(verb, field.name) for field in fields(verb) if field.name in known}
    return own | dict(verb.settings) | instead


def configured(verb: Any, config: _Config, **instead: Any) -> _Config:
    """``config`` with the options that ``verb`` was given."""
    return with_options(config, given(verb, config, **instead))
