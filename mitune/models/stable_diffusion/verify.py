"""Check, before anything is computed, that the parts of a pipeline make one Stable Diffusion.

Otherwise a part that does not fit, an empty tokenizer or a weight that is NaN would end in a torch
traceback or, worse, in plausible numbers.
"""

import math
from typing import Any

import torch

from mitune.core.errors import UserError
from mitune.core.identity import merges_of
from mitune.diffusion.schedule import Schedule
from mitune.diffusion.variance_preserving import VariancePreserving
from mitune.models.verify import check_weights

_OTHER_CONDITIONING = (
    "class_embed_type",
    "num_class_embeds",
    "addition_embed_type",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
)
NETWORKS = ("unet", "vae", "text_encoder")


def check_pipeline(name: str, pipeline: Any, dtype: torch.dtype) -> None:
    """Raise UserError, naming the model and the part, unless the pipeline is a text-to-image
    Stable Diffusion 1.x or 2.x whose parts fit each other.

    Args:
        name: of the model, for the message.
        pipeline: a StableDiffusionPipeline.
        dtype: in which the UNet is going to run; its range must hold the UNet's weights.
    """
    try:
        for part in (*NETWORKS, "tokenizer", "scheduler"):
            if getattr(pipeline, part, None) is None:
                raise UserError(f"the {part} is missing: expected a whole pipeline")
        _check_unet(pipeline.unet.config, pipeline.vae.config, pipeline.text_encoder.config)
        _check_vae(pipeline.vae.config)
        _check_tokenizer(pipeline.tokenizer, pipeline.text_encoder.config)
        if not isinstance(Schedule.levels(pipeline.scheduler).process, VariancePreserving):
            raise UserError(
                f"the scheduler {type(pipeline.scheduler).__name__} has no noise levels of "
                "diffusion: expected those of Stable Diffusion 1.x or 2.x, not a flow's"
            )
        for part in NETWORKS:
            own = dtype if part == "unet" else torch.float32
            check_weights(part, getattr(pipeline, part), own)
    except UserError as error:
        raise UserError(f"model {name}: {error}") from error


def _check_unet(unet: Any, vae: Any, text: Any) -> None:
    for option in _OTHER_CONDITIONING:
        if (value := unet.get(option)) is not None:
            raise UserError(
                f"the unet's {option} is {value!r}, so it wants more than a text: expected a UNet "
                "of Stable Diffusion 1.x or 2.x, conditioned on text alone"
            )
    if not unet.in_channels == unet.out_channels == vae.latent_channels:
        raise UserError(
            f"the unet takes {unet.in_channels} channels and makes {unet.out_channels}, and the "
            f"vae's latents have {vae.latent_channels}: expected the same number of each (9 are "
            "an inpainting model's, 8 an image-editing one's); give a text-to-image model"
        )
    given = unet.cross_attention_dim
    widths = {given} if isinstance(given, int) else {*given}
    if widths != {text.hidden_size}:
        raise UserError(
            f"the unet takes text of width {given} and the text_encoder makes "
            f"{text.hidden_size}: expected the same; give the text encoder that the UNet was "
            "trained with"
        )
    size = unet.sample_size
    sides = size if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(
            f"the unet's sample_size is {size!r}: expected the side of its latents; set it in "
            "unet/config.json (64 for pictures of 512 pixels)"
        )


def _check_vae(vae: Any) -> None:
    if (vae.in_channels, vae.out_channels) != (3, 3):
        raise UserError(
            f"the vae takes {vae.in_channels} channels and makes {vae.out_channels}: expected "
            "pictures of 3"
        )
    scale = vae.scaling_factor
    if not isinstance(scale, (int, float)) or not (0 < scale < math.inf):
        raise UserError(
            f"the vae's scaling_factor is {scale!r}: expected a number above 0; restore it in "
            "vae/config.json (0.18215 in Stable Diffusion 1.x and 2.x)"
        )
    for option in ("shift_factor", "latents_mean", "latents_std"):
        if (value := vae.get(option)) is not None:
            raise UserError(
                f"the vae's {option} is {value!r}: expected null, as Stable Diffusion scales its "
                "latents by scaling_factor alone"
            )


def _check_tokenizer(tokenizer: Any, text: Any) -> None:
    vocabulary = tokenizer.get_vocab()
    size, places = max([len(tokenizer), *(i + 1 for i in vocabulary.values())]), text.vocab_size
    mend = "restore the files in tokenizer/ (vocab.json, merges.txt, tokenizer.json)"
    # An encoder may have rows that no token uses, to round up its size, but not more than it uses.
    if not places / 2 < size <= places:
        raise UserError(
            f"the tokenizer knows {size} tokens and the text_encoder has {places}: expected as "
            f"many; {mend}"
        )
    if tokenizer.pad_token_id is None:
        raise UserError(
            "the tokenizer has no pad_token: expected one; set it in tokenizer/"
            "tokenizer_config.json"
        )
    length, longest = tokenizer.model_max_length, text.max_position_embeddings
    if not 3 <= length <= longest:
        shown = "missing" if length > 1e9 else length
        raise UserError(
            f"the tokenizer's model_max_length is {shown}: expected 3 to {longest}, the "
            f"text_encoder's max_position_embeddings; set it to {longest} in tokenizer/"
            "tokenizer_config.json"
        )
    if (merges := merges_of(tokenizer)) is not None:
        added = tokenizer.get_added_vocab()
        made = {merge.replace(" ", "") for merge in merges}
        long = [t for t in vocabulary if t not in added and len(t.removesuffix("</w>")) > 1]
        lost = sum(token not in made for token in long)
        if 2 * lost > len(long):
            raise UserError(
                f"the tokenizer has no merge that makes {lost} of its {len(long)} longer tokens, "
                f"so texts fall to letters: expected one for each; {mend}"
            )
