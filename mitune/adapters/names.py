"""The names of an adapter's tensors: peft's in memory, diffusers' in files."""

from collections.abc import Mapping

from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from torch import Tensor

UNET, TRANSFORMER, TEXT_ENCODER = "unet", "transformer", "text_encoder"
NETWORKS = (UNET, TRANSFORMER, TEXT_ENCODER, "text_encoder_2", "text_encoder_3")
"""The networks an adapter may be on, as diffusers names a pipeline's parts and as their tensors
begin in a file; a denoiser is one of the first two."""
DENOISERS = (UNET, TRANSFORMER)

TEXT_MODEL = "text_model."
"""What transformers before 5 puts before every name in a text encoder. In files it always stands
there: diffusers takes it away where transformers has it no more, and ComfyUI looks for it. In
memory never."""

# Peft's words and diffusers'. The magnitudes of a text encoder diffusers itself writes under peft's
# word and then, with transformers 5, does not find again: it goes on with the base's norms, and no
# more than a report in the log. Under this word that finds them, and so does peft's own loader.
_UNET_WORDS = {".lora_A.": ".lora.down.", ".lora_B.": ".lora.up."}
_TEXT_WORDS = {
    ".lora_A.": ".lora_linear_layer.down.",
    ".lora_B.": ".lora_linear_layer.up.",
    ".lora_magnitude_vector": ".lora_magnitude_vector.weight",
}


def _words(network: str) -> Mapping[str, str]:
    if network == TRANSFORMER:  # under peft's own
        return {}
    return _UNET_WORDS if network == UNET else _TEXT_WORDS


def as_peft(network: str, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors under peft's names, from those they have in a file after ``network.``."""
    tensors: dict[str, Tensor] = {}
    for key, value in stored.items():
        if network not in DENOISERS:
            key = key.removeprefix(TEXT_MODEL)
        for ours, theirs in _words(network).items():
            key = key.replace(theirs, ours)
        tensors[key] = value
    if network == UNET:  # older names too
        tensors = convert_unet_state_dict_to_peft(tensors)
    return tensors


def as_diffusers(network: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse."""
    # Not by diffusers' convert_state_dict_to_diffusers: of a UNet it renames the attention
    # projections alone, and of a file with names of both kinds diffusers loads one kind, with no
    # more than a warning.
    named = {}
    for key, value in tensors.items():
        for ours, theirs in _words(network).items():
            key = key.replace(ours, theirs)
        named[("" if network in DENOISERS else TEXT_MODEL) + key] = value
    return named
