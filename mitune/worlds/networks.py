"""Small networks with random weights, of the same classes as in a well-known model family."""

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def text_encoder(
    tokenizer: CLIPTokenizer, *, width: int, layers: int, length: int
) -> CLIPTextModel:
    """A CLIP text transformer of four heads for a tokenizer's vocabulary, of ``length`` tokens."""
    end = tokenizer.eos_token_id
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def autoencoder(size: int, channels: tuple[int, ...], latent_channels: int) -> AutoencoderKL:
    """An autoencoder of square pictures without attention; each but the last of the levels halves
    the size."""
    return AutoencoderKL(
        sample_size=size,
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


def denoiser(size: int, latent_channels: int, text_width: int) -> UNet2DConditionModel:
    """A UNet of some 4 M parameters, with cross-attention at both resolutions."""
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=text_width,
        # diffusers reads this as the number of heads for this model class.
        attention_head_dim=2,
        norm_num_groups=16,
    )


def scheduler() -> DDPMScheduler:
    """The noise schedule of that family."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        timestep_spacing="leading",
        variance_type="fixed_small",
    )
