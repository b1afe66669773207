"""Show a run's numbers and pictures while it trains: TensorBoard, Weights & Biases.

metrics.jsonl has the numbers in any case. A tracker's package is imported only if it is used.
"""

import importlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from mitune.core.errors import UserError
from mitune.core.files import atomic_write

TRACKERS = ("tensorboard", "wandb")
"""Names of the trackers; their packages and mitune's extras have the same names."""

_PROJECT = "mitune"
_WANDB_ID = "wandb-id.txt"


class Tracker(Protocol):
    """Shows numbers and pictures by step, each step once, even if the run is killed and resumed."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Show the numbers of one step by their names."""
        ...

    def picture(self, step: int, path: Path) -> None:
        """Show a PNG, after the step's numbers."""
        ...

    def close(self) -> None:
        """Write everything that is still buffered, and end."""
        ...


def check(name: str) -> None:
    """Raise UserError unless ``name`` is a tracker and its package is installed."""
    if name not in TRACKERS:
        raise UserError(f"log_to {name!r} is not known: choose one of {', '.join(TRACKERS)}")
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"log_to is {name!r} and that package is not installed: pip install 'mitune[{name}]' "
            f"(or {name} alone), or leave it out; metrics.jsonl has the same numbers"
        ) from error


def tracker(name: str, out: Path, step: int, settings: Mapping[str, Any]) -> Tracker:
    """The tracker of the run in ``out``.

    Args:
        name: a name in TRACKERS that passed ``check``.
        out: the run's folder, which must exist.
        step: the last step done; what a killed run logged for later steps will be logged again.
        settings: the run's settings.

    Raises:
        UserError: if W&B refuses the run.
    """
    return TensorBoard(out, step) if name == "tensorboard" else WandB(out, settings)


class TensorBoard:
    """Event files in ``out/tensorboard``; view them with ``tensorboard --logdir OUT``."""

    def __init__(self, out: Path, step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        # Readers of the event files then discard what a killed run wrote for later steps.
        self._writer: Any = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        # Flush before a checkpoint can follow: after it, this step is not repeated.
        self._writer.flush()

    def picture(self, step: int, path: Path) -> None:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image("samples", pixels, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """One run of Weights & Biases, in the project WANDB_PROJECT or "mitune". Log in with ``wandb
    login``, or set WANDB_MODE=offline.

    W&B does not accept steps that it has already passed. A resumed run therefore skips the steps
    that W&B has; their numbers are the same.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        self._picture = wandb.Image
        self._run: Any
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                id=_wandb_id(out),
                resume="allow",
                name=out.resolve().name,
                dir=str(out),
                config=dict(settings),
            )
        except wandb.Error as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"W&B refuses this run ({reason}): expected a login; run 'wandb login', set "
                "WANDB_MODE=offline, or leave --log-to out"
            ) from error
        self._first = self._run.step

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self._first:
            self._run.log(dict(values), step=step)

    def picture(self, step: int, path: Path) -> None:
        if step >= self._first:
            self._run.log({"samples": self._picture(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()


def _wandb_id(out: Path) -> str:
    """The random id of this folder's run, drawn once and stored in the folder."""
    path = out / _WANDB_ID
    if not path.exists():
        atomic_write(path, secrets.token_hex(8).encode())
    return path.read_text().strip()
