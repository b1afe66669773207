"""Load a metric's weights, or say in one line which are missing."""

from collections.abc import Callable
from typing import Any, TypeVar

from mitune.core.errors import UserError
from mitune.core.reading import reason

_Loaded = TypeVar("_Loaded")


def loaded(name: str, weights: str, load: Callable[..., _Loaded], **options: Any) -> _Loaded:
    """Call ``load(weights, **options)``, a class's ``from_pretrained``; only safetensors are read.

    Raises:
        UserError: they are not there, or are those of something else.
    """
    try:
        return load(weights, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        first = reason(error).strip().splitlines()[0]
        raise UserError(
            f"scorer {name} needs the weights {weights!r}, which cannot be loaded ({first}): "
            f"expected a folder or a hub name; give it as {name}=FOLDER"
        ) from error
