"""A whole Stable Diffusion, text encoder and all, small enough to train in a test."""

import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from tiny_model import WIDTH, TinyModel, config
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mitune.adapters import adapter
from mitune.config.training import TuneConfig
from mitune.models.stable_diffusion.model import StableDiffusion
from mitune.worlds.shapes_v1 import networks
from mitune.worlds.shapes_v1.model import FOLDER

TEXTS = ["a red circle", "a blue square"]


def pipeline() -> StableDiffusionPipeline:
    """Plain diffusers: the tiny UNet, a CLIP of two layers, the embedded model's tokenizer."""
    tokenizer: Any = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")
    tiny, end = TinyModel(), tokenizer.eos_token_id
    with torch.random.fork_rng():
        torch.manual_seed(3)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=networks.TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=end,
                pad_token_id=end,
                initializer_factor=8.0,  # attention that is not all but even
            )
        )
        vae = networks.vae()
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=tiny.unet,
        scheduler=tiny.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def joint_model(precision: str = "float32") -> StableDiffusion:
    """The same as ``mitune.load`` makes it."""
    return StableDiffusion(pipeline(), "joint", device=torch.device("cpu"), precision=precision)


def joint(**changes: Any) -> TuneConfig:
    """``config`` with the text encoder trained too, some captions left out."""
    return config(**({"text_encoder_lr": 5e-4, "caption_dropout": 0.25} | changes))


def scramble_all(model: StableDiffusion) -> None:
    """As ``scramble``, of both networks."""
    generator = torch.Generator().manual_seed(9)
    for parameter in adapter.parameters(model).values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter)


def trained_joint(folder: Path, **changes: Any) -> StableDiffusion:
    """A model that carries the adapter saved in ``folder``, of both networks."""
    model = joint_model()
    adapter.attach(model, joint(**changes))
    scramble_all(model)
    adapter.save(model, folder, {"fingerprint": model.fingerprint, "model": "joint"})
    return model


def embeddings(model: Any) -> Tensor:
    """Of TEXTS and the empty prompt by a model or a pipeline, [3, L, D]; in float64, so that only
    its weights' own rounding shows."""
    found = model.tokenizer(
        [*TEXTS, ""],
        padding="max_length",
        max_length=model.tokenizer.model_max_length,
        return_tensors="pt",
    )
    with torch.no_grad():
        hidden: Tensor = doubled(model.text_encoder)(found["input_ids"])[0]
    return hidden


def predict(unet: Any, text: Tensor) -> Tensor:
    """At one fixed point, ``[N, 4, 8, 8]`` for N <= 3 rows of text; in float64."""
    rows = len(text)
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(5)).double()[:rows]
    t = torch.tensor([200, 800, 500])[:rows]
    with torch.no_grad():
        prediction: Tensor = doubled(unet)(z, t, text.double(), return_dict=False)[0]
    return prediction


def doubled(network: Any) -> Any:
    """A copy in float64, adapters and all."""
    return copy.deepcopy(network).double()
