"""The names of an adapter's tensors: peft's in memory, diffusers' in files."""

from collections.abc import Mapping

from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from torch import Tensor

UNET, TRANSFORMER, TEXT_ENCODER = "unet", "transformer", "text_encoder"
NETWORKS = (UNET, TRANSFORMER, TEXT_ENCODER, "text_encoder_2", "text_encoder_3")
"""The networks that may have an adapter, by diffusers' names of a pipeline's parts. Tensors in a
file begin with these names. A denoiser is one of the first two."""
DENOISERS = (UNET, TRANSFORMER)

TEXT_MODEL = "text_model."
"""The prefix of every name in a text encoder in transformers before 5. Names in files always have
it: diffusers removes it if transformers no longer has it, and ComfyUI looks for it. Names in a
``Part`` never have it."""

# peft's words and diffusers'. diffusers itself writes the magnitudes of a text encoder under peft's
# word. With transformers 5 it does not find them there again: it continues with the base's norms,
# and only logs it. It finds them under the word below, and so does peft's own loader.
_UNET_WORDS = {".lora_A.": ".lora.down.", ".lora_B.": ".lora.up."}
_TEXT_WORDS = {
    ".lora_A.": ".lora_linear_layer.down.",
    ".lora_B.": ".lora_linear_layer.up.",
    ".lora_magnitude_vector": ".lora_magnitude_vector.weight",
}


def _words(network: str) -> Mapping[str, str]:
    if network == TRANSFORMER:  # its files have peft's names
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
    if network == UNET:  # converts older names too
        tensors = convert_unet_state_dict_to_peft(tensors)
    return tensors


def as_diffusers(network: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of ``as_peft``."""
    # Not by diffusers' convert_state_dict_to_diffusers: in a UNet it renames only the attention
    # projections, and of a file with names of both kinds diffusers loads only one kind, with no
    # more than a warning.
    named = {}
    for key, value in tensors.items():
        for ours, theirs in _words(network).items():
            key = key.replace(ours, theirs)
        named[("" if network in DENOISERS else TEXT_MODEL) + key] = value
    return named
