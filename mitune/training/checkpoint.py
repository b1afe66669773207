"""The state of a training run, and its checkpoints, which are written atomically.

``checkpoints/step-000050/`` holds the adapter (a file that diffusers reads), the optimizer's
moments, the step, and which step was the best so far. It holds no random state, because all
randomness is keyed by (seed, step, position).
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from mitune.adapters import adapter
from mitune.core.errors import UserError
from mitune.core.files import atomic_write
from mitune.core.reading import listed
from mitune.models.protocol import LatentModel
from mitune.training.shards import Shards, part_of

_NAME = re.compile(r"step-(\d{6,})")
_STATE, _OPTIMIZER = "state.json", "optimizer.safetensors"


@dataclass(frozen=True, kw_only=True)
class Best:
    """The step with the highest MI of held-out prompts so far.

    Attributes:
        measured: SHA-256 that identifies the measure; values of another measure are not comparable.
        step: the step.
        mi: in nats, finite.
        waited: measures since then, none of which was higher.
    """

    measured: str
    step: int
    mi: float
    waited: int = 0


@dataclass(kw_only=True)
class TrainState:
    """Everything that changes during training.

    Attributes:
        model: the model, with the adapter on it.
        parameters: the trained tensors by name.
        optimizer: over ``parameters``, in their order.
        step: optimizer steps done.
        best: the best step so far; None if no step was measured or no measure was finite.
        shards: given if the weights are sharded; ``parameters`` are then this process's parts.
    """

    model: LatentModel
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    step: int = 0
    best: Best | None = None
    shards: Shards | None = None

    def gather(self) -> None:
        """Update the whole model from the shards, before it is saved or measured. All processes
        have to call it at the same step."""
        if self.shards is not None:
            self.shards.gather(self.optimizer)

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """The optimizer's moments, by the parameter's name and then by AdamW's name for the moment.
        With shards, those of the last ``gather``."""
        if self.shards is not None:
            return self.shards.moments
        return {name: self.optimizer.state.get(p, {}) for name, p in self.parameters.items()}


def find(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first; an empty list if the folder is absent.

    Raises:
        UserError: the folder cannot be read.
    """
    found = [path for path in listed(folder) if _NAME.fullmatch(path.name)]
    return sorted(found, key=_step)


def save(
    state: TrainState, folder: Path, metadata: Mapping[str, Any], run: str, keep: int = 2
) -> Path:
    """Write a checkpoint of ``state`` into ``folder`` and remove all but the newest ``keep`` and
    the best.

    The checkpoint is built under a temporary name and renamed once its files have reached the disk.
    So a killed process leaves either a whole checkpoint or none. If this step already has a
    checkpoint, it is kept as it is.

    Args:
        state: the state between two optimizer steps, gathered.
        folder: the folder of the checkpoints; created if absent.
        metadata: for the adapter's header, as in ``adapter.save``.
        run: identifies the run; ``restore`` requires the same value.
        keep: number of the newest checkpoints to keep.

    Raises:
        UserError: if the folder cannot be written or the disk is full.
    """
    place = at(folder, state.step)
    if place.is_dir():
        return place
    temporary = folder / f".{place.name}.tmp"
    _remove(temporary)
    adapter.save(state.model, temporary, metadata)
    moments = {
        f"{name}/{kind}": value.detach().cpu().contiguous()
        for name, kept in state.moments().items()
        for kind, value in kept.items()
    }
    atomic_write(temporary / _OPTIMIZER, to_safetensors(moments))
    content: dict[str, Any] = {"step": state.step, "run": run}
    if state.best is not None:
        content["best"] = asdict(state.best)
    atomic_write(temporary / _STATE, json.dumps(content).encode())
    _rename(temporary, place)
    prune(state, folder, keep)
    return place


def prune(state: TrainState, folder: Path, keep: int) -> None:
    """Remove all checkpoints except the newest ``keep`` and that of ``state.best``.

    Raises:
        UserError: if one cannot be removed.
    """
    best = None if state.best is None else at(folder, state.best.step)
    for old in find(folder)[:-keep]:
        if old == best:
            continue
        # Rename first: a kill during the removal must not leave half a checkpoint under its name.
        gone = old.with_name(f".{old.name}.tmp")
        _remove(gone)
        _rename(old, gone)
        _remove(gone)


def at(folder: Path, step: int) -> Path:
    """The path of the checkpoint of ``step`` in ``folder``, whether it exists or not."""
    return folder / f"step-{step:06d}"


def restore(state: TrainState, place: Path, run: str) -> None:
    """Restore ``state`` from a checkpoint, bit for bit.

    Args:
        state: newly created with the run's settings; changed in place.
        place: a checkpoint's folder.
        run: the value that was passed to ``save``.

    Raises:
        UserError: if the checkpoint is damaged or belongs to another run.
    """
    try:
        content = json.loads((place / _STATE).read_bytes())
        step, its_run = int(content["step"]), content["run"]
        best = Best(**content["best"]) if "best" in content else None
        moments = load_file(place / _OPTIMIZER)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            f"checkpoint {place} is damaged ({error}): expected the files that `mitune tune` "
            "wrote; remove that folder to go on from the one before"
        ) from error
    if its_run != run or step != _step(place):
        raise UserError(
            f"checkpoint {place} is of another run: expected one of this run's; remove that folder"
        )
    saved: dict[str, dict[str, Tensor]] = {}
    for key, value in moments.items():
        name, kind = key.rsplit("/", 1)
        saved.setdefault(name, {})[kind] = value
    if saved.keys() != state.parameters.keys():
        raise UserError(
            f"checkpoint {place} holds the optimizer of other tensors: expected the adapter's; "
            "remove that folder to go on from the one before"
        )
    adapter.restore(state.model, place)
    if state.shards is not None:
        state.shards.scatter()
    state.optimizer.load_state_dict(
        {
            "state": {
                number: {kind: part_of(value, p) for kind, value in saved[name].items()}
                for number, (name, p) in enumerate(state.parameters.items())
            },
            "param_groups": state.optimizer.state_dict()["param_groups"],
        }
    )
    state.step, state.best = step, best


def restore_best(state: TrainState, folder: Path) -> None:
    """Load the adapter of ``state.best`` into the model; the rest of ``state`` does not change.

    Raises:
        UserError: if there is no best step, or its checkpoint in ``folder`` is missing or damaged.
    """
    if state.best is None:
        raise UserError(
            "the MI of held-out prompts was finite at no step: expected one to choose the best "
            f"adapter by; train in another folder without that, or take one from {folder}"
        )
    adapter.restore(state.model, at(folder, state.best.step))


def clean(folder: Path) -> None:
    """Remove what a killed ``save`` left in ``folder``; the caller must hold the run's lock."""
    for leftover in folder.glob(".step-*.tmp"):
        _remove(leftover)


def _step(place: Path) -> int:
    return int(place.name.removeprefix("step-"))


def _remove(folder: Path) -> None:
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _rename(path: Path, name: Path) -> None:
    try:
        os.rename(path, name)
        # Sync the folder too, so that the new name survives a power cut.
        descriptor = os.open(name.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unwritable(name, error) from error


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write {path} ({error.strerror}): expected a writable folder with free space; mend "
        "that and run the same command again, finished checkpoints are kept"
    )
