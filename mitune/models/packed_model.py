"""What families share whose transformer takes tokens of two by two latents."""

import torch

from mitune.models.packing import SIDE
from mitune.models.pipeline_model import PipelineModel

_SIDE = 1024
"""Pixels of these pipelines' pictures by default: no config says it."""


class PackedModel(PipelineModel):
    """A :class:`mitune.models.pipeline_model.PipelineModel` of packed latents, with Flux's times
    and size."""

    denoiser = "transformer"

    @property
    def patch(self) -> int:
        return SIDE

    def shape_of_latents(self) -> tuple[int, ...]:
        side = _SIDE // self.latent_scale
        return self.networks[self.denoiser].config.in_channels // SIDE**2, side, side

    def flow_sigmas(self, steps: int) -> list[float]:
        """Evenly from 1 to 1 / steps."""
        return torch.linspace(1.0, 1 / steps, steps).tolist()
