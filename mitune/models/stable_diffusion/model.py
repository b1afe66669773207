"""Stable Diffusion 1.x and 2.x (epsilon and v-prediction) as a denoiser, from any diffusers
pipeline folder or hub name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mitune.config.preset import PAPER, Preset
from mitune.core.errors import UserError
from mitune.core.identity import parts_of, weights_digest
from mitune.models.loading import load_pipeline
from mitune.models.protocol import Conditioning
from mitune.models.verify import check_pipeline

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "bf16-mixed": torch.float32,
    "float64": torch.float64,
}
"""Name and dtype of the UNet. float64 is a reference: its rounding shows nowhere. bf16-mixed is
a float32 model whose pictures are generated with the products of convolutions and linear layers in
bfloat16, and everything between them in float32 (``mitune.runtime.prepared``)."""


class StableDiffusion:
    """A loaded pipeline, seen as a denoiser of latents.

    Attributes:
        pipeline: the diffusers pipeline; its parts are ``unet``, ``vae``, ``text_encoder``,
            ``tokenizer``, ``scheduler``.
        name: what it was loaded from, for people: no decision may rest on it.
        world: the embedded world that it draws, whose oracle judges its pictures; None: none.
        device: where the networks run.
        precision: a name of PRECISIONS; latents and scores are float32 all the same.
        dtype: of the UNet.
        latent_shape: (C, H, W) of one latent.
        prediction: "epsilon" or "v_prediction".
        preset: the numbers this model is used with unless told otherwise.
        fingerprint: SHA-256 over the weights of UNet and text encoder as loaded, without any
            adapter: what an adapter belongs to.
        parts: everything else that changes a number, by part (``mitune.core.identity``).
        prepared: what ``mitune.runtime.prepared.prepare`` made of it, by backend, attention and
            precision.

    Raises:
        UserError: a pipeline that is not of this family, whose parts do not fit each other, or with
            weights that are not finite (``mitune.models.verify``).
    """

    def __init__(
        self,
        pipeline: Any,
        name: str,
        *,
        device: torch.device,
        precision: str,
        preset: Preset = PAPER,
        fingerprint: str | None = None,
    ) -> None:
        if type(pipeline).__name__ != "StableDiffusionPipeline":
            raise UserError(
                f"model {name} is a {type(pipeline).__name__}: expected a StableDiffusionPipeline "
                "(1.x or 2.x); "
                "other families are not supported yet"
            )
        self.pipeline = pipeline
        self.name = name
        self.world: str | None = None
        self.preset = preset
        self.prepared: dict[tuple[str, str, str], Any] = {}
        self.device = device
        self.precision = precision
        self.dtype = PRECISIONS[precision]
        check_pipeline(name, pipeline, self.dtype)
        # Hashed before the dtype changes, so that one model has one fingerprint in every precision
        # it is run in.
        self.fingerprint = fingerprint or weights_digest(pipeline.unet, pipeline.text_encoder)
        self.parts: Mapping[str, Any] = parts_of(pipeline)
        # Only the UNet follows the chosen precision: the text encoder runs once per prompt and the
        # VAE is looked at, so neither is worth a rounding error.
        pipeline.unet.to(device=device, dtype=self.dtype).eval().requires_grad_(False)
        for part in (pipeline.vae, pipeline.text_encoder):
            part.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
        self.unet = pipeline.unet
        self.vae = pipeline.vae
        self.text_encoder = pipeline.text_encoder
        self.tokenizer = pipeline.tokenizer
        self.scheduler = pipeline.scheduler
        self.prediction: str = self.scheduler.config.prediction_type
        size = self.unet.config.sample_size
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        self.latent_shape: tuple[int, int, int] = (self.unet.config.in_channels, height, width)

    @property
    def picture_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the pictures that decode from ``latent_shape``."""
        scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.latent_shape[1] * scale, self.latent_shape[2] * scale

    def __call__(self, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """Prediction of the UNet, ``[B, C, H, W]`` in the model's dtype; see
        :class:`mitune.models.protocol.Denoiser`."""
        prediction: Tensor = self.unet(
            z.to(self.dtype),
            t,
            encoder_hidden_states=cond["encoder_hidden_states"],
            return_dict=False,
        )[0]
        return prediction

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Text embeddings, one row for each prompt: ``{"encoder_hidden_states": [N, L, D]}`` in the
        model's dtype.

        Longer prompts than the text encoder takes are cut as diffusers does; ``too_long`` says
        which those are.
        """
        return self.embed(self.tokenize(prompts))

    def encode_null(self) -> dict[str, Tensor]:
        """The empty prompt's embedding, one row."""
        return self.encode_prompts([""])

    def tokenize(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """What ``embed`` takes: ``{"input_ids": [N, L]}`` int64 on the model's device, and an
        ``attention_mask`` like it where the text encoder wants one."""
        found = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        # Some SD-2 text encoders want the padding masked, and say so in their config, as diffusers
        # honours it.
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        names = ("input_ids", "attention_mask") if masked else ("input_ids",)
        return {name: found[name].to(self.device) for name in names}

    def embed(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As ``encode_prompts``, of what ``tokenize`` made; gradients reach the text encoder."""
        hidden = self.text_encoder(**tokens)[0]
        return {"encoder_hidden_states": hidden.to(self.dtype)}

    def too_long(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of which the text encoder would see only the beginning."""
        limit = self.tokenizer.model_max_length
        return [p for p in prompts if len(self.tokenizer(p, truncation=False).input_ids) > limit]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of latents.

        Args:
            latents: ``[N, C, H, W]`` float32, in the scale of the sampler (unit variance).

        Returns:
            ``[N, 3, h, w]`` float32 in [0, 1] on the CPU.
        """
        scaled = latents.to(self.device) / self.vae.config.scaling_factor
        parts = [self.vae.decode(chunk, return_dict=False)[0] for chunk in scaled.split(64)]
        pictures: Tensor = torch.cat(parts) if parts else latents.new_zeros(0, 3, 1, 1)
        return (pictures / 2 + 0.5).clamp(0, 1).cpu()

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Latents of pictures: ``[N, 3, h, w]`` in [0, 1] -> ``[N, C, H, W]`` float32, the mode of
        the encoder."""
        parts = [
            self.vae.encode(chunk.to(self.device) * 2 - 1).latent_dist.mode()
            for chunk in images.split(64)
        ]
        return torch.cat(parts) * float(self.vae.config.scaling_factor)


def check_precision(name: str) -> None:
    """Raise UserError unless ``name`` is one of PRECISIONS."""
    if name not in PRECISIONS:
        raise UserError(f"precision {name!r} is not known: choose one of {', '.join(PRECISIONS)}")


def load_stable_diffusion(
    source: str | Path,
    *,
    device: torch.device,
    precision: str,
    variant: str | None = None,
    preset: Preset = PAPER,
) -> StableDiffusion:
    """Load a StableDiffusionPipeline folder or hub name.

    Args:
        source, variant: as ``mitune.models.loading.load_pipeline``.
        device: where the networks run.
        precision: the UNet's, a name of PRECISIONS.

    Raises:
        UserError: as ``mitune.models.loading.load_pipeline`` and ``StableDiffusion``.
    """
    pipeline = load_pipeline(source, variant)
    return StableDiffusion(pipeline, str(source), device=device, precision=precision, preset=preset)
