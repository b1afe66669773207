"""The prompts that a verb was given, or the embedded world's own; and the sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mitune.core import progress
from mitune.core.errors import UserError
from mitune.core.prompts import read_prompts

if TYPE_CHECKING:
    from mitune.models.protocol import LatentModel
    from mitune.sets import FineTuningSet


_SHOWN = 200
"""Letters of a prompt in a warning."""


def given_prompts(command: Any, path: Path | None, split: Literal["train", "test"]) -> list[str]:
    """The prompts a command works on: a file's up to its ``limit``, or the whole list of the
    embedded model's world.

    Raises:
        UserError: a limit below 1; no file for a model other than shapes; as ``read_prompts``.
    """
    if command.limit is not None and command.limit < 1:
        raise UserError(f"limit is {command.limit}: expected at least 1 prompt")
    if path is not None:
        return read_prompts(path, command.limit)
    found = _world_prompts(command.model, split)
    if not found:
        raise UserError(
            "no prompts: give --prompts FILE, one prompt a line (only the shapes model has its own "
            "list)"
        )
    return found


def held_out_prompts(model: str, path: Path | None) -> list[str]:
    """The prompts that ``align`` compares on: a file's, or the test list of the embedded
    model's world; none for other models.

    Raises:
        UserError: as ``read_prompts``.
    """
    if path is not None:
        return read_prompts(path)
    return _world_prompts(model, "test")


def _world_prompts(model: str, split: Literal["train", "test"]) -> list[str]:
    """The list of an embedded model's world; none for other models."""
    from mitune.worlds.known import WORLDS

    return WORLDS[model].prompts(split) if model in WORLDS else []


def warn_long(model: "LatentModel", prompts: list[str]) -> None:
    """Tell, on stderr, which prompts the text encoder will not read to their end."""
    for prompt in model.too_long(prompts):
        shown = prompt if len(prompt) <= _SHOWN else f"{prompt[:_SHOWN]}..."
        progress.warn(f"prompt is cut to {model.prompt_limit} tokens: {shown}")


def whole_set(path: Path, model: "LatentModel") -> "FineTuningSet":
    """The set in folder ``path``, which is complete and of this model.

    Raises:
        UserError: it is not; as ``FineTuningSet.open``.
    """
    from mitune.core.identity import check_same_model
    from mitune.sets import FineTuningSet

    found = FineTuningSet.open(path)
    if not found.complete:
        raise UserError(f"set {path} is not complete: run the command that began it again")
    check_same_model(f"set {path}", found.settings, model)
    return found
