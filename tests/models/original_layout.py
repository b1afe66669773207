"""A Stable Diffusion (1.x or XL) in the layout of its authors' single file, which diffusers reads:
written from the names on both sides."""

from typing import Any

import torch
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def _resnet(rest: list[str]) -> str:
    return ".".join([_RESNET[rest[0]], *rest[1:]])


def _unet_name(name: str, layers: int) -> str:
    """``layers``: of a block on the way down."""
    words = name.split(".")
    for end, original in _ENDS.items():
        if name.startswith(f"{end}."):
            return f"{original}.{words[-1]}"
    if words[0] == "mid_block":
        kind, number, rest = words[1], int(words[2]), words[3:]
        place = 1 if kind == "attentions" else 2 * number
        inner = ".".join(rest) if kind == "attentions" else _resnet(rest)
        return f"middle_block.{place}.{inner}"
    block, kind, number, rest = int(words[1]), words[2], int(words[3]), words[4:]
    if words[0] == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{(layers + 1) * (block + 1)}.0.op.{rest[-1]}"
        place = f"input_blocks.{(layers + 1) * block + number + 1}"
    else:
        if kind == "upsamplers":
            return f"output_blocks.{(layers + 1) * block + layers}.UP.conv.{rest[-1]}"
        place = f"output_blocks.{(layers + 1) * block + number}"
    return f"{place}.1.{'.'.join(rest)}" if kind == "attentions" else f"{place}.0.{_resnet(rest)}"


def _vae_name(name: str, blocks: int) -> str:
    words = name.split(".")
    side, rest = words[0], words[1:]
    if side not in ("encoder", "decoder"):
        return name
    if rest[0] == "conv_norm_out":
        return f"{side}.norm_out.{rest[-1]}"
    if rest[0] == "mid_block":
        if rest[1] == "resnets":
            inner = ".".join(rest[3:]).replace("conv_shortcut", "nin_shortcut")
            return f"{side}.mid.block_{int(rest[2]) + 1}.{inner}"
        part = ".".join(rest[3:-1])
        return f"{side}.mid.attn_1.{_ATTENTION[part]}.{rest[-1]}"
    if rest[0] in ("down_blocks", "up_blocks"):
        block = int(rest[1])
        way = "down" if rest[0] == "down_blocks" else "up"
        place = f"{side}.{way}.{block if way == 'down' else blocks - 1 - block}"
        if rest[2] == "resnets":
            inner = ".".join(rest[4:]).replace("conv_shortcut", "nin_shortcut")
            return f"{place}.block.{rest[3]}.{inner}"
        return f"{place}.{way}sample.{'.'.join(rest[4:])}"
    return name


def original_layout(pipeline: Any) -> dict[str, Tensor]:
    """The tensors of a pipeline under the names of Stable Diffusion 1.x or XL."""
    found: dict[str, Tensor] = {}
    unet = pipeline.unet.state_dict()
    layers = pipeline.unet.config.layers_per_block
    for name, tensor in unet.items():
        original = _unet_name(name, layers)
        if ".UP." in original:  # after the attention, where the block has one
            block = name.partition(".upsamplers")[0]
            attended = any(other.startswith(f"{block}.attentions") for other in unet)
            original = original.replace(".UP.", ".2." if attended else ".1.")
        found[f"model.diffusion_model.{original}"] = tensor
    blocks = len(pipeline.vae.config.block_out_channels)
    for name, tensor in pipeline.vae.state_dict().items():
        original = _vae_name(name, blocks)
        if ".attn_1." in original and original.endswith("weight") and tensor.ndim == 2:
            tensor = tensor[..., None, None]  # a convolution there
        found[f"first_stage_model.{original}"] = tensor
    large = hasattr(pipeline, "text_encoder_2")
    place = "conditioner.embedders.0" if large else "cond_stage_model"
    for name, tensor in pipeline.text_encoder.state_dict().items():
        found[f"{place}.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    if large:
        found |= _open_clip(pipeline.text_encoder_2.state_dict(), "conditioner.embedders.1.model")
    return {name: tensor.contiguous() for name, tensor in found.items()}


_OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "encoder.layers": "transformer.resblocks",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "final_layer_norm": "ln_final",
}


def _open_clip(state: dict[str, Tensor], place: str) -> dict[str, Tensor]:
    """Query, key and value side by side, and the projection transposed."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        name = name.removeprefix("text_model.")
        if name == "text_projection.weight":
            found[f"{place}.text_projection"] = tensor.T
        elif ".q_proj." in name:
            parts = [state[key] for key in state if key.endswith(name)]
            parts += [
                state[next(k for k in state if k.endswith(name.replace("q_proj", other)))]
                for other in ("k_proj", "v_proj")
            ]
            end = name.rpartition(".")[2]
            layer = name.split(".")[2]
            key = f"{place}.transformer.resblocks.{layer}.attn.in_proj_{end}"
            found[key] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            for theirs, original in _OPEN_CLIP.items():
                name = name.replace(theirs, original)
            found[f"{place}.{name}"] = tensor
    return found
