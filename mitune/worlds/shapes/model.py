"""The shipped embedded model: where it lies, and how it is loaded."""

from pathlib import Path

import torch

import mitune
from mitune.core.errors import UserError
from mitune.models.stable_diffusion.model import StableDiffusion, load_stable_diffusion
from mitune.worlds.shapes.preset import PRESET

FOLDER = Path(mitune.__file__).parent / "shapes" / "pretrained"
"""Apart from the code of its world: programs name this folder as a Stable Diffusion to load."""


def load_shapes(*, device: torch.device, precision: str, folder: Path = FOLDER) -> StableDiffusion:
    """The embedded model, or another training of it in ``folder``, through the same loader as any
    Stable Diffusion folder.

    Raises:
        UserError: the weights are not installed.
    """
    if not folder.is_dir():
        raise UserError(
            f"the embedded model is not at {folder}: reinstall mitune, or make it with "
            "'python -m mitune.worlds.shapes.pretrain'"
        )
    model = load_stable_diffusion(folder, device=device, precision=precision, preset=PRESET)
    model.name = model.world = "shapes"
    return model
