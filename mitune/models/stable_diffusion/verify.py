"""Check, before anything is computed, that the parts of a pipeline make one Stable Diffusion.

Otherwise a part that does not fit, an empty tokenizer or a weight that is NaN would end in a torch
traceback or, worse, in plausible numbers.
"""

from typing import Any

from mitune.core.errors import UserError
from mitune.diffusion.schedule import Schedule
from mitune.diffusion.variance_preserving import VariancePreserving
from mitune.models.verify import check_tokenizer, check_unet, check_vae, naming_model

_OTHER_CONDITIONING = (
    "class_embed_type",
    "num_class_embeds",
    "addition_embed_type",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
)


def check_parts(name: str, pipeline: Any) -> None:
    """Raise UserError, naming the model and the part, unless the parts of a pipeline fit each other
    as a text-to-image Stable Diffusion 1.x or 2.x.

    Args:
        name: of the model, for the message.
        pipeline: a StableDiffusionPipeline, whose parts are all there.
    """
    with naming_model(name):
        _check_text(pipeline.unet.config, pipeline.text_encoder.config)
        check_unet(pipeline.unet.config, pipeline.vae.config)
        check_vae(pipeline.vae.config)
        check_tokenizer("tokenizer", pipeline.tokenizer, pipeline.text_encoder.config)
        if not isinstance(Schedule.levels(pipeline.scheduler).process, VariancePreserving):
            raise UserError(
                f"the scheduler {type(pipeline.scheduler).__name__} has no noise levels of "
                "diffusion: expected those of Stable Diffusion 1.x or 2.x, not a flow's"
            )


def _check_text(unet: Any, text: Any) -> None:
    for option in _OTHER_CONDITIONING:
        if (value := unet.get(option)) is not None:
            raise UserError(
                f"the unet's {option} is {value!r}, so it wants more than a text: expected a UNet "
                "of Stable Diffusion 1.x or 2.x, conditioned on text alone"
            )
    given = unet.cross_attention_dim
    widths = {given} if isinstance(given, int) else {*given}
    if widths != {text.hidden_size}:
        raise UserError(
            f"the unet takes text of width {given} and the text_encoder makes "
            f"{text.hidden_size}: expected the same; give the text encoder that the UNet was "
            "trained with"
        )
