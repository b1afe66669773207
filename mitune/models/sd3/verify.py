"""Check that a transformer and its text encoders make one Stable Diffusion 3."""

from typing import Any

from mitune.core.errors import UserError
from mitune.models.verify import check_pictures, check_tokenizer, naming_model

_CLIPS = ("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")


def check_parts(name: str, pipeline: Any) -> None:
    """Raise UserError, naming the model and the part, unless a pipeline's parts fit each other.

    Args:
        name: of the model, for the message.
        pipeline: a StableDiffusion3Pipeline, whose parts are all there, but perhaps the third
            encoder or its tokenizer.
    """
    with naming_model(name):
        _check_third(pipeline)
        _check_text(pipeline)
        _check_latents(pipeline.transformer.config, pipeline.vae.config)
        check_pictures(pipeline.vae.config)
        for encoder, tokenizer in _CLIPS:
            check_tokenizer(
                tokenizer, getattr(pipeline, tokenizer), getattr(pipeline, encoder).config
            )


def _check_third(pipeline: Any) -> None:
    encoder, tokenizer = pipeline.text_encoder_3, pipeline.tokenizer_3
    if (encoder is None) != (tokenizer is None):
        absent, there = "text_encoder_3", "tokenizer_3"
        if encoder is not None:
            absent, there = there, absent
        raise UserError(f"the {there} is there without the {absent}: expected both, or neither")
    if encoder is not None and encoder.config.vocab_size < len(tokenizer):
        raise UserError(
            f"the tokenizer_3 knows {len(tokenizer)} tokens and the text_encoder_3 has "
            f"{encoder.config.vocab_size}: expected as many; restore the files in tokenizer_3/"
        )


def _check_text(pipeline: Any) -> None:
    transformer = pipeline.transformer.config
    clips = [getattr(pipeline, encoder).config for encoder, _ in _CLIPS]
    width, pooled = transformer.joint_attention_dim, transformer.pooled_projection_dim
    if (third := pipeline.text_encoder_3) is not None and third.config.d_model != width:
        raise UserError(
            f"the transformer takes text of width {width} and the text_encoder_3 makes "
            f"{third.config.d_model}: expected the same; give the encoder that the transformer was "
            "trained with"
        )
    if (beside := sum(clip.hidden_size for clip in clips)) > width:
        raise UserError(
            f"the transformer takes text of width {width} and the two CLIP encoders make {beside} "
            "side by side: expected no more; give those that the transformer was trained with"
        )
    if (made := sum(clip.projection_dim for clip in clips)) != pooled:
        raise UserError(
            f"the transformer takes a pooled text of width {pooled} and the two CLIP encoders make "
            f"{made}: expected the same; give those that the transformer was trained with"
        )


def _check_latents(transformer: Any, vae: Any) -> None:
    made = transformer.out_channels
    if not transformer.in_channels == made == vae.latent_channels:
        raise UserError(
            f"the transformer takes {transformer.in_channels} channels and makes {made}, and the "
            f"vae's latents have {vae.latent_channels}: expected the same number of each; give a "
            "text-to-image model"
        )
    patches = transformer.sample_size // transformer.patch_size
    if patches > transformer.pos_embed_max_size:
        raise UserError(
            f"the transformer's sample_size is {transformer.sample_size}, {patches} patches, and "
            f"it has places for {transformer.pos_embed_max_size}: expected no more; restore "
            "transformer/config.json"
        )
