"""A model with random weights, small enough to train in a test, and a set for it."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from mitune.config.preset import PAPER
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.diffusion.schedule import Schedule
from mitune.models.stable_diffusion.model import StableDiffusion

WIDTH, LENGTH = 8, 3


class TinyModel(StableDiffusion):
    """4x8x8 latents, and no text encoder: text rows are drawn from the prompt's letters."""

    def __init__(
        self, prediction: str = "epsilon", weights: int = 0, middle: bool = True, levels: int = 2
    ) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(weights)
            unet: Any = UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(8, 16)[:levels],
                layers_per_block=1,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D")[:levels],
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")[-levels:],
                mid_block_type="UNetMidBlock2DCrossAttn" if middle else None,
                norm_num_groups=4,
                cross_attention_dim=WIDTH,
                attention_head_dim=2,
            )
        self.pipeline = StableDiffusionPipeline  # the class stands for an object of it
        self.networks = {"unet": unet.eval().requires_grad_(False)}
        self.name, self.world, self.preset = "tiny", None, PAPER
        self.parts: Mapping[str, Any] = {"scheduler": {"prediction_type": "epsilon"}}
        self.device, self.latent_shape = torch.device("cpu"), (4, 8, 8)
        self.dtype, self.precision = torch.float32, "float32"
        self.prepared = {}
        self.scheduler: Any = DDPMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            prediction_type=prediction,
            steps_offset=1,
            clip_sample=False,
        )
        self.process = Schedule.levels(self.scheduler).process
        self.fingerprint = f"{weights:064x}"
        self.encoded: list[str] = []

    def encode_prompts(self, prompts: Sequence[str], /) -> dict[str, Tensor]:
        self.encoded += prompts
        rows = []
        for prompt in prompts:
            generator = torch.Generator().manual_seed(sum(map(ord, prompt)))
            rows.append(torch.randn(LENGTH, WIDTH, generator=generator))
        return {"encoder_hidden_states": torch.stack(rows).to(self.dtype)}

    def encode_null(self) -> dict[str, Tensor]:
        return {"encoder_hidden_states": torch.zeros(1, LENGTH, WIDTH, dtype=self.dtype)}

    def predict(self) -> Tensor:
        """The prediction at one fixed point, [2, 4, 8, 8]; in float64, so that only the weights'
        own rounding shows."""
        generator = torch.Generator().manual_seed(5)
        z = torch.randn(2, *self.latent_shape, generator=generator).double()
        text = self.encode_prompts(["a", "b"])["encoder_hidden_states"].double()
        unet = copy.deepcopy(self.unet).double()
        with torch.no_grad():
            prediction: Tensor = unet(z, torch.tensor([200, 800]), text, return_dict=False)[0]
        return prediction

    def plain_pipeline(self) -> StableDiffusionPipeline:
        """Plain diffusers around a UNet with this model's weights."""
        unet = type(self.unet).from_config(self.unet.config).eval()
        unet.load_state_dict(self.unet.state_dict())
        return StableDiffusionPipeline(
            vae=None,
            text_encoder=None,
            tokenizer=None,
            unet=unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


class TinySet:
    """Some pairs, two of the same prompt."""

    def __init__(self, pairs: int = 5, seed: int = 0) -> None:
        self.settings = {"steps": 50, "seed": seed}
        generator = torch.Generator().manual_seed(seed)
        latents = torch.randn(pairs, 4, 8, 8, generator=generator)
        self.pairs = [(f"prompt {max(i, 1)}", latent) for i, latent in enumerate(latents)]

    def selected(self) -> list[tuple[str, Tensor]]:
        return self.pairs


def config(**changes: Any) -> TuneConfig:
    """A run of 6 steps of 8 samples that moves every tensor."""
    small: dict[str, Any] = {"rank": 4, "alpha": 4, "lr": 1e-3, "batch": 8, "iterations": 6}
    return TuneConfig(**(small | {"checkpoint_every": 3} | changes))


def full_config(**changes: Any) -> TuneConfig:
    """The same of all weights; with so large an epsilon the rounding of gradients near 0 is no
    whole step of AdamW."""
    return config(**({"method": "full", "eps": 1e-4, "micro_batch": 3} | changes))


def scramble(unet: Any) -> None:
    """Give the adapter values as after long training: B away from 0, m from the norms."""
    generator = torch.Generator().manual_seed(9)
    for name, parameter in unet.named_parameters():
        if ".lora_" in name:
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.data += 0.3 * noise


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` by its relative name."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def refusal(call: Any, *arguments: Any, **options: Any) -> str:
    """The one line by which a call refuses what it is given."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
