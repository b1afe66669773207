"""Checks that every family makes of a pipeline before anything is computed with it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from mitune.core.errors import UserError
from mitune.core.identity import merges_of
from mitune.diffusion.schedule import Schedule
from mitune.diffusion.variance_preserving import VariancePreserving


@contextmanager
def naming_model(name: str) -> Iterator[None]:
    """Name the model in front of what a check says."""
    try:
        yield
    except UserError as error:
        raise UserError(f"model {name}: {error}") from error


def check_live(pipeline: Any) -> None:
    """Raise UserError unless a pipeline that is in use can be read as it is: what its hooks and
    LoRAs do to its networks would be lost."""
    networks = {
        name: part
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    for name, network in networks.items():
        hooked = ("_hf_hook", "_diffusers_hook")  # of accelerate, and of diffusers
        if any(hasattr(module, hook) for module in network.modules() for hook in hooked):
            raise UserError(
                f"the {name} has hooks, of offloading or of casting: expected a plain network on "
                "one device; call pipe.remove_all_hooks() and pipe.to(device) first, or load the "
                "pipeline again without them"
            )
        if any(isinstance(module, BaseTunerLayer) for module in network.modules()):
            raise UserError(
                f"the {name} carries LoRAs: expected plain weights; call pipe.fuse_lora() and then "
                "pipe.unload_lora_weights(), or give the file as adapter="
            )


def check_weights(part: str, module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Raise UserError, naming the part, unless its weights are in memory, finite, and of a size
    that ``dtype`` holds."""
    largest = torch.finfo(dtype).max
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        if tensor.is_meta:
            raise UserError(
                f"the {part}'s weight {name} is not in memory: expected a pipeline without "
                "offloading; load it plainly"
            )
        low, high = (float(value) for value in tensor.aminmax())  # NaN if any is
        if not -math.inf < low <= high < math.inf:
            raise UserError(
                f"the {part}'s weight {name} is not finite (NaN or infinity): expected numbers; "
                "fetch the model again, or take the last checkpoint before its training diverged"
            )
        if max(-low, high) > largest:
            kind = str(dtype).removeprefix("torch.")
            raise UserError(
                f"the {part}'s weight {name} reaches {max(-low, high):g}, which {kind} cannot "
                "hold: expected a model that fits it; use --precision float32 or bfloat16"
            )


def check_unet(unet: Any, vae: Any) -> None:
    """Raise UserError unless a UNet, by its config, makes latents from latents of the VAE, and says
    of which size."""
    if not unet.in_channels == unet.out_channels == vae.latent_channels:
        raise UserError(
            f"the unet takes {unet.in_channels} channels and makes {unet.out_channels}, and the "
            f"vae's latents have {vae.latent_channels}: expected the same number of each (9 are "
            "an inpainting model's, 8 an image-editing one's); give a text-to-image model"
        )
    size = unet.sample_size
    sides = size if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(
            f"the unet's sample_size is {size!r}: expected the side of its latents; set it in "
            "unet/config.json (64 for pictures of 512 pixels)"
        )


def check_transformer(
    network: Any,
    channels: int,
    taken: int,
    made: int,
    *,
    packed: int = 1,
    variance: bool = False,
) -> None:
    """Raise UserError unless a transformer, by its config, makes latents from latents of the VAE,
    and takes text as wide as its encoder makes it.

    Args:
        network: its config.
        channels: of the VAE's latents.
        taken: width of the text that the transformer takes.
        made: width of the text that the text_encoder makes.
        packed: latents side by side in each of the transformer's tokens.
        variance: whether it may make as many channels again, a variance that nothing uses.
    """
    made_channels = network.get("out_channels") or network.in_channels
    if variance and made_channels == 2 * network.in_channels:
        made_channels = network.in_channels
    if not network.in_channels == made_channels == packed * channels:
        each = "" if packed == 1 else f", {packed} of which make a token"
        raise UserError(
            f"the transformer takes {network.in_channels} channels and makes {made_channels}, and "
            f"the vae's latents have {channels}{each}: expected the same number of each; give a "
            "text-to-image model"
        )
    if taken != made:
        raise UserError(
            f"the transformer takes text of width {taken} and the text_encoder makes {made}: "
            "expected the same; give the encoder that the transformer was trained with"
        )


def check_diffusion(scheduler: Any) -> None:
    """Raise UserError unless a scheduler has the noise levels of diffusion, not those of a flow."""
    if not isinstance(Schedule.levels(scheduler).process, VariancePreserving):
        raise UserError(
            f"the scheduler {type(scheduler).__name__} has no noise levels of diffusion: expected "
            "those that the model was trained with, not a flow's"
        )


def check_vae(vae: Any) -> None:
    """Raise UserError unless an AutoencoderKL, by its config, takes pictures and scales its latents
    by a factor alone."""
    check_pictures(vae)
    for option in ("shift_factor", "latents_mean", "latents_std"):
        if (value := vae.get(option)) is not None:
            raise UserError(
                f"the vae's {option} is {value!r}: expected null, as this family scales its "
                "latents by scaling_factor alone"
            )


def check_pictures(vae: Any) -> None:
    """Raise UserError unless an AutoencoderKL, by its config, takes pictures and has a scale."""
    if (vae.in_channels, vae.out_channels) != (3, 3):
        raise UserError(
            f"the vae takes {vae.in_channels} channels and makes {vae.out_channels}: expected "
            "pictures of 3"
        )
    scale = vae.scaling_factor
    if not isinstance(scale, (int, float)) or not (0 < scale < math.inf):
        raise UserError(
            f"the vae's scaling_factor is {scale!r}: expected a number above 0; restore it in "
            "vae/config.json"
        )


def check_tokenizer(part: str, tokenizer: Any, text: Any) -> None:
    """Raise UserError, naming the part, unless a CLIP tokenizer is whole and fits its text encoder,
    whose config is ``text``."""
    encoder = part.replace("tokenizer", "text_encoder")
    vocabulary = tokenizer.get_vocab()
    size, places = max([len(tokenizer), *(i + 1 for i in vocabulary.values())]), text.vocab_size
    mend = f"restore the files in {part}/ (vocab.json, merges.txt, tokenizer.json)"
    # An encoder may have rows that no token uses, to round up its size, but not more than it uses.
    if not places / 2 < size <= places:
        raise UserError(
            f"the {part} knows {size} tokens and the {encoder} has {places}: expected as "
            f"many; {mend}"
        )
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"the {part} has no pad_token: expected one; set it in {part}/tokenizer_config.json"
        )
    length, longest = tokenizer.model_max_length, text.max_position_embeddings
    if not 3 <= length <= longest:
        shown = "missing" if length > 1e9 else length
        raise UserError(
            f"the {part}'s model_max_length is {shown}: expected 3 to {longest}, the "
            f"{encoder}'s max_position_embeddings; set it to {longest} in {part}/"
            "tokenizer_config.json"
        )
    if (merges := merges_of(tokenizer)) is not None:
        added = tokenizer.get_added_vocab()
        made = {merge.replace(" ", "") for merge in merges}
        long = [t for t in vocabulary if t not in added and len(t.removesuffix("</w>")) > 1]
        lost = sum(token not in made for token in long)
        if 2 * lost > len(long):
            raise UserError(
                f"the {part} has no merge that makes {lost} of its {len(long)} longer tokens, "
                f"so texts fall to letters: expected one for each; {mend}"
            )
