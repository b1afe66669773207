"""Where the shipped embedded model is, and what programs written for 0.1 import from here."""

from pathlib import Path
from typing import TYPE_CHECKING

import mitune
from mitune.worlds.shapes_v1.preset import PRESET as PRESET

if TYPE_CHECKING:
    import torch

    from mitune.models.protocol import LatentModel

FOLDER = Path(mitune.__file__).parent / "shapes_v1" / "pretrained"
"""The weights are outside the world's code, because programs pass this path as a model to load."""


def load_shapes(
    *, device: "torch.device", precision: str, folder: Path = FOLDER, offload: bool = False
) -> "LatentModel":
    """As ``mitune.worlds.shapes_v1.world.SHAPES_V1.load``."""
    from mitune.worlds.shapes_v1.world import SHAPES_V1

    return SHAPES_V1.load(device=device, precision=precision, folder=folder, offload=offload)
