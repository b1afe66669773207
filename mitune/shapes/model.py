"""The shipped embedded model: where it lies, and the numbers it is used with."""

from dataclasses import replace
from pathlib import Path

import torch

from mitune.errors import UserError
from mitune.families.stable_diffusion import StableDiffusion, load_stable_diffusion
from mitune.preset import PAPER, Preset
from mitune.sampler import SamplerConfig

FOLDER = Path(__file__).parent / "pretrained"

PRESET: Preset = replace(
    PAPER,
    candidates=16,
    keep=2,
    estimator="standard",
    draws=12,
    sampler=SamplerConfig(steps=25, guidance=1.0, t_min=400),
    use_guidance=1.0,
    tuning=replace(
        PAPER.tuning,
        lr=2e-3,
        lr_scheduler="linear",
        t_range=(400, 1000),
        batch=30,
        micro_batch=30,
        iterations=160,
    ),
)
"""Why these and not the paper's: MODEL_CARD.md beside the weights and docs/measured.md."""


def load_shapes(*, device: torch.device, precision: str, folder: Path = FOLDER) -> StableDiffusion:
    """The embedded model, or another training of it in ``folder``, through the same loader as any
    Stable Diffusion folder.

    Raises:
        UserError: the weights are not installed.
    """
    if not folder.is_dir():
        raise UserError(
            f"the embedded model is not at {folder}: reinstall mitune, or make it with "
            "'python -m mitune.shapes.pretrain'"
        )
    model = load_stable_diffusion(folder, device=device, precision=precision, preset=PRESET)
    model.name = model.world = "shapes"
    return model
