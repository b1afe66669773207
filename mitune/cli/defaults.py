"""What options come to that leave a value to the model's preset: for the help, read from the
presets themselves."""

from operator import attrgetter
from typing import Any

from mitune.arguments.fields import Shown


def of_preset(path: str, **instead: str) -> Shown:
    """The value at ``path`` in the model's ``Preset``, such as "sampler.steps".

    Args:
        path: attributes, with dots.
        instead: what a value comes to that this option cannot have.
    """

    def text() -> str:
        from mitune.config.preset import PAPER
        from mitune.worlds.shapes.preset import PRESET

        texts = (_plain(attrgetter(path)(preset)) for preset in (PAPER, PRESET))
        paper, shapes = (instead.get(text, text) for text in texts)
        if paper == shapes:
            return paper
        return f"the model's preset (shapes: {shapes}, others: {paper})"

    return Shown(text)


def of_pruning(name: str) -> Shown:
    """The value of that name in a ``PruneConfig``."""

    def text() -> str:
        from mitune.config.pruning import PruneConfig

        return _plain(getattr(PruneConfig(policy="halving"), name))

    return Shown(text)


def _plain(value: Any) -> str:
    """As it is given on a command line."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
