"""Check that a transformer, an autoencoder and a language model make one Qwen-Image."""

from typing import Any

from diffusers.configuration_utils import FrozenDict

from mitune.core.errors import UserError
from mitune.models.packing import SIDE
from mitune.models.verify import check_transformer, naming_model

_UNUSABLE = {
    "guidance_embeds": "is given its guidance as a number, which is in its one prediction: there "
    "is no prediction without the prompt to compare with",
    "zero_cond_t": "edits pictures, which it is given beside the latents",
    "use_additional_t_cond": "draws pictures in layers, from a picture",
    "use_layer3d_rope": "draws pictures in layers, from a picture",
}
"""Options of the transformer's config, and what is wrong with a model that has them."""


def check_parts(name: str, pipeline: Any) -> None:
    """Raise UserError, naming the model and the part, unless a pipeline's parts fit each other.

    Args:
        name: of the model, for the message.
        pipeline: a QwenImagePipeline, whose parts are all there.
    """
    network, vae = pipeline.transformer.config, pipeline.vae.config
    with naming_model(name):
        for option, why in _UNUSABLE.items():
            if network.get(option):
                raise UserError(
                    f"the transformer's {option} is true, so it {why}; expected Qwen-Image's own "
                    "text-to-image model"
                )
        # Its config counts what it makes in latents, but what it takes in tokens of them.
        made = SIDE**2 * (network.out_channels or network.in_channels)
        check_transformer(
            FrozenDict({**network, "out_channels": made}),
            vae.z_dim,
            network.joint_attention_dim,
            pipeline.text_encoder.config.text_config.hidden_size,
            packed=SIDE**2,
        )
        if vae.input_channels != 3:
            raise UserError(f"the vae takes {vae.input_channels} channels: expected pictures of 3")
        for option in ("latents_mean", "latents_std"):
            if len(vae[option]) != vae.z_dim:
                raise UserError(
                    f"the vae's {option} has {len(vae[option])} numbers: expected {vae.z_dim}, one "
                    "for each channel of its latents; restore it in vae/config.json"
                )
