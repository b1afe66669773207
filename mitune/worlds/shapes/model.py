"""The shipped embedded model: its folder and its loader."""

from pathlib import Path

import torch

import mitune
from mitune.core.errors import UserError
from mitune.models.loading import load_model
from mitune.models.protocol import LatentModel
from mitune.worlds.shapes.preset import PRESET

FOLDER = Path(mitune.__file__).parent / "shapes" / "pretrained"
"""The weights are outside the world's code, because programs pass this path as a model to load."""


def load_shapes(
    *, device: torch.device, precision: str, folder: Path = FOLDER, offload: bool = False
) -> LatentModel:
    """Load the embedded model, or another training of it from ``folder``, with the same loader as
    any other folder.

    Raises:
        UserError: if the weights are not installed.
    """
    if not folder.is_dir():
        raise UserError(
            f"the embedded model is not at {folder}: reinstall mitune, or make it with "
            "'python -m mitune.worlds.shapes.pretrain'"
        )
    model: LatentModel = load_model(
        folder, device=device, precision=precision, preset=PRESET, offload=offload
    )
    model.name = model.world = "shapes"
    return model
