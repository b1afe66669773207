"""Families of models: what recognises a pipeline, by its class and parts and never by its name.

A package below ``mitune.models`` with a ``FAMILY`` is one; other programs ``register`` theirs.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mitune.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Family:
    """What recognises and loads the models of one family.

    Attributes:
        title: of its pipelines, as a sentence names one.
        pipeline: name of their class in diffusers.
        components: the pipeline's parts, each with the names of the classes that it may have; None:
            any.
        networks: those parts that are networks, each with the stem of its file of weights.
        unused: parts that such a pipeline may have and no picture depends on; they are left out.
        harmless: ends of the names of weights that may be missing or left over.
        options: of the pipeline's constructor.
        model: makes a :class:`mitune.models.pipeline_model.PipelineModel`, with its arguments. A
            function that imports it when it is called: that takes seconds.
    """

    title: str
    pipeline: str
    components: Mapping[str, tuple[str, ...] | None]
    networks: Mapping[str, str]
    unused: tuple[str, ...] = ()
    harmless: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    model: Callable[..., Any]

    def holds(self, pipeline: Any) -> bool:
        """Whether a live pipeline is of this family."""
        return type(pipeline).__name__ == self.pipeline


_REGISTERED: list[Family] = []


def register(family: Family) -> None:
    """Let ``mitune.load`` know a family of another program."""
    if family not in _REGISTERED:
        _REGISTERED.append(family)


def families() -> list[Family]:
    """All that are known."""
    import mitune.models as package

    own = [
        importlib.import_module(f"{package.__name__}.{entry.name}").FAMILY
        for entry in pkgutil.iter_modules(package.__path__)
        if entry.ispkg
    ]
    return [*own, *_REGISTERED]


def assemble(parts: Mapping[str, Any]) -> tuple[Family, Any]:
    """A pipeline of networks, tokenizers and a scheduler that are here already, and its family.

    Raises:
        ValueError: parts that no family has.
    """
    import diffusers

    for family in families():
        fits = parts.keys() == family.components.keys() and all(
            classes is None or type(parts[name]).__name__ in classes
            for name, classes in family.components.items()
        )
        if fits:
            kind = getattr(diffusers, family.pipeline)
            return family, kind(**parts, **dict.fromkeys(family.unused), **family.options)
    raise ValueError(f"no family has the parts {sorted(parts)}")


def family_of(name: str, pipeline: Any) -> Family:
    """The family of a live pipeline. Raises UserError, which names the model, where there is
    none."""
    found = next((family for family in families() if family.holds(pipeline)), None)
    if found is None:
        raise foreign(name, pipeline)
    return found


def expected() -> str:
    """What can be loaded, as a sentence lists it."""
    return " or ".join(family.title for family in families())


def foreign(name: str, pipeline: Any) -> UserError:
    """That a pipeline is of no family that is known."""
    return UserError(
        f"model {name} is a {type(pipeline).__name__}: expected {expected()}; other families are "
        "not supported yet"
    )
