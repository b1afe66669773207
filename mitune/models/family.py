"""Families of models: each recognises its pipelines by class and parts, never by name.

A package below ``mitune.models`` that has a ``FAMILY`` is a family; other programs ``register``
theirs.
"""

import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mitune.config.preset import PAPER, Preset
from mitune.core.errors import UserError
from mitune.models.refusals import why_not


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the models of one family are recognised and loaded.

    Attributes:
        title: names one of its pipelines in a sentence.
        pipeline: name of the pipeline's class in diffusers.
        components: the pipeline's parts, each with the names of its allowed classes; None allows
            any class.
        networks: the parts that are networks, each with the stem of its weights file; the denoiser
            first.
        optional: the parts that a pipeline may do without.
        unused: parts that such a pipeline may have but no picture depends on; they are left out.
        harmless: ends of the names of weights that may be missing or left over.
        options: of the pipeline's constructor.
        preset: the settings that its models use unless others are given.
        model: makes a :class:`mitune.models.pipeline_model.PipelineModel` from the arguments of its
            constructor; see :func:`imported`.
        random: benchmarks without a download, by name. Each function makes the denoiser and the
            text encoders of a model with random weights from a tokenizer of 77 tokens, and returns
            them with the tokenizers by the names of the pipeline's parts; with a scheduler and a
            VAE if those of diffusion with four channels do not serve.
        moved: its modules by the names that they had before 0.2, as in ``mitune.moved``.
        authors: the class of the research code that takes its pipelines; None: there is none.
    """

    title: str
    pipeline: str
    components: Mapping[str, tuple[str, ...] | None]
    networks: Mapping[str, str]
    optional: frozenset[str] = frozenset()
    unused: tuple[str, ...] = ()
    harmless: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    preset: Preset = PAPER
    model: Callable[..., Any]
    random: Mapping[str, Callable[[Any], dict[str, Any]]] = field(default_factory=dict)
    moved: Mapping[str, str] = field(default_factory=dict)
    authors: "AuthorsClass | None" = None

    def holds(self, pipeline: Any) -> bool:
        """Whether a loaded pipeline is of this family."""
        return type(pipeline).__name__ == self.pipeline

    @property
    def denoiser(self) -> str:
        """The part that predicts."""
        return next(iter(self.networks))

    def fits(self, parts: Collection[str]) -> bool:
        """Whether a pipeline of this family has parts of these names, and no others."""
        return self.components.keys() - self.optional <= set(parts) <= self.components.keys()

    def foreign_part(self, kinds: Mapping[str, str]) -> str | None:
        """The first part whose class, by its name, the family does not allow; None if there is
        none. ``kinds`` are the classes by the names of the parts."""
        for name, allowed in self.components.items():
            if allowed and name in kinds and kinds[name] not in allowed:
                return name
        return None


@dataclass(frozen=True, kw_only=True)
class AuthorsClass:
    """A pipeline's class in the research code of the method's authors, which ``mitune.compat`` has
    by the same name.

    Attributes:
        name: of the class.
        steps, guidance: of a call that does not give them.
        rfmi: whether its score is RFMI's (``mitune.scoring.rfmi``); else Eq. 2's without alpha_t,
            over t > 50.
    """

    name: str
    steps: int = 50
    guidance: float = 7.5
    rfmi: bool = False


def imported(module: str, name: str) -> Callable[..., Any]:
    """What stands under that name in a module, which is imported when it is called: for
    ``Family.model`` and ``Family.random``, whose modules take seconds to import."""

    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*arguments, **options)

    return call


_REGISTERED: list[Family] = []


def register(family: Family) -> None:
    """Make a family of another program known to ``mitune.load``."""
    if family not in _REGISTERED:
        _REGISTERED.append(family)


def families() -> list[Family]:
    """All known families: those of other programs first, so that they may replace one of ours."""
    import mitune.models as package

    own = [
        importlib.import_module(f"{package.__name__}.{entry.name}").FAMILY
        for entry in pkgutil.iter_modules(package.__path__)
        if entry.ispkg
    ]
    return [*_REGISTERED, *own]


def assemble(parts: Mapping[str, Any]) -> tuple[Family, Any]:
    """Build a pipeline from networks, tokenizers and a scheduler that are in memory; returns its
    family and the pipeline.

    Raises:
        ValueError: no family has these parts.
    """
    import diffusers

    for family in families():
        kinds = {name: type(part).__name__ for name, part in parts.items()}
        if family.fits(parts) and family.foreign_part(kinds) is None:
            kind = getattr(diffusers, family.pipeline)
            absent = dict.fromkeys([*family.unused, *(family.optional - parts.keys())])
            return family, kind(**parts, **absent, **family.options)
    raise ValueError(f"no family has the parts {sorted(parts)}")


def family_of(name: str, pipeline: Any) -> Family:
    """The family of a loaded pipeline. Raises UserError, which names the model, if there is
    none."""
    found = next((family for family in families() if family.holds(pipeline)), None)
    if found is None:
        raise foreign(name, pipeline)
    return found


def expected() -> str:
    """What can be loaded, as a phrase for a message."""
    *others, last = (family.title for family in families())
    return f"{', '.join(others)} or {last}" if others else last


def foreign(name: str, pipeline: Any) -> UserError:
    """The error for a pipeline that belongs to no known family."""
    return refused(name, type(pipeline).__name__)


def refused(name: str, pipeline: str, parts: str = "") -> UserError:
    """The error for a model that belongs to no known family.

    Args:
        name: of the model.
        pipeline: the name of its pipeline's class.
        parts: a phrase that describes it further.
    """
    if (why := why_not(pipeline)) is not None:
        return UserError(f"model {name} is a {pipeline}, which {why}; expected {expected()}")
    return UserError(
        f"model {name} is a {pipeline}{parts}: expected {expected()}; other families are not "
        "supported yet"
    )
