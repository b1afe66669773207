"""The size of a model's pictures and latents, and what decides it."""

import copy
from collections.abc import Mapping
from typing import Any, Self

from mitune.core.errors import UserError


class PictureSize:
    """The part of :class:`mitune.models.pipeline_model.PipelineModel` that knows sizes; a family
    overrides what its networks do otherwise."""

    denoiser: str
    networks: dict[str, Any]
    latent_shape: tuple[int, ...]
    parts: Mapping[str, Any]
    prepared: dict[Any, Any]

    @property
    def vae(self) -> Any:
        """The autoencoder."""
        return self.networks["vae"]

    @property
    def picture_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the pictures that decode from ``latent_shape``."""
        height, width = self.latent_shape[-2:]
        return height * self.latent_scale, width * self.latent_scale

    def shape_of_latents(self) -> tuple[int, ...]:
        """(C, H, W), from the denoiser's config."""
        config = self.networks[self.denoiser].config
        size = config.sample_size
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        return config.in_channels, height, width

    def resize(self, size: tuple[int, int]) -> None:
        """Draw pictures of ``size``, (height, width); if it is not the model's own, it is a part of
        the model's identity.

        Raises:
            UserError: a side that the networks cannot have.
        """
        if size == self.picture_size:
            return
        step, most = self.size_step, self.largest_side
        for side in size:
            if side < step or side % step or (most is not None and side > most):
                upto = "" if most is None else f", up to {most}"
                raise UserError(
                    f"size is {size[1]}x{size[0]}: expected sides that are multiples of {step}"
                    f"{upto}; the model's own is {self.picture_size[1]}x{self.picture_size[0]}"
                )
        channels, *_ = self.latent_shape
        self.latent_shape = channels, *(side // self.latent_scale for side in size)
        self.parts = {**self.parts, "size": {"height": size[0], "width": size[1]}}

    def at(self, latent_size: tuple[int, int]) -> Self:
        """The same model at pictures whose latents are so high and wide; it shares all networks.

        Raises:
            UserError: as :meth:`resize`.
        """
        other = copy.copy(self)
        other.prepared = {}
        height, width = (side * self.latent_scale for side in latent_size)
        other.resize((height, width))
        return other

    @property
    def latent_step(self) -> int:
        """Latents of which a picture's sides are multiples: those of a transformer's patch, or one,
        doubled by each halving in a UNet, so that its maps divide evenly."""
        blocks = self.networks[self.denoiser].config.get("block_out_channels") or (1,)
        return int(self.patch * 2 ** (len(blocks) - 1))

    @property
    def size_step(self) -> int:
        """Pixels of which a picture's sides are multiples."""
        return self.latent_scale * self.latent_step

    @property
    def largest_side(self) -> int | None:
        """Of a picture, in pixels; None: there is none."""
        return None

    @property
    def latent_scale(self) -> int:
        """Pixels of a latent's side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def patch(self) -> int:
        """Side of the square of latents that is one token of a transformer."""
        return int(self.networks[self.denoiser].config.get("patch_size") or 1)
