"""Weights of open_clip's models, such as the published ones of HPS, in transformers' CLIPModel.

The two are the same network under other names: open_clip keeps the three projections of attention
in one matrix, and the last projections transposed.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mitune.core.errors import UserError

_HEAD = 64
"""Channels of an attention head in ViT-H/14's text encoder."""
_VISION_HEAD = 80

_NAMES = (
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^text_projection$", "text_projection.weight"),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.ln_1\.", ".layer_norm1."),
    (r"\.ln_2\.", ".layer_norm2."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
_TRANSPOSED = ("visual.proj", "text_projection")
_JOINED = re.compile(r"^(.*)\.attn\.in_proj_(weight|bias)$")


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's weights under the names of transformers' CLIPModel."""
    found = {}
    for name, value in weights.items():
        for part, tensor in _split(name, value.T if name in _TRANSPOSED else value):
            for pattern, new in _NAMES:
                part = re.sub(pattern, new, part)
            found[part] = tensor.contiguous()
    return found


def _split(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    joined = _JOINED.match(name)
    if joined is None:
        yield name, value
        return
    block, kind = joined.groups()
    for letter, part in zip("qkv", value.chunk(3), strict=True):
        yield f"{block}.self_attn.{letter}_proj.{kind}", part


def read_model(path: Path, *, text_head: int = _HEAD, vision_head: int = _VISION_HEAD) -> Any:
    """A CLIPModel with the weights of a checkpoint of open_clip, whose sizes it reads from them.

    Args:
        path: of torch.save; only tensors are unpickled. The weights are in ``state_dict`` or the
            whole file.
        text_head, vision_head: channels of an attention head, which weights do not tell; those of
            ViT-H/14, HPS's network.

    Raises:
        UserError: the file is not a checkpoint, or it is of another network.
    """
    from transformers import CLIPConfig, CLIPModel

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        weights = content.get("state_dict", content)
        patch = weights["visual.conv1.weight"]
        places = len(weights["visual.positional_embedding"]) - 1
        config = CLIPConfig(
            text_config=_tower(weights, "transformer", text_head)
            | {"vocab_size": len(weights["token_embedding.weight"]), "eos_token_id": 49407},
            vision_config=_tower(weights, "visual.transformer", vision_head)
            | {"patch_size": patch.shape[-1], "image_size": round(places**0.5) * patch.shape[-1]},
            projection_dim=weights["text_projection"].shape[1],
        )
        model = CLIPModel(config)
        own = {name for name in model.state_dict() if not name.endswith("position_ids")}
        found = renamed({n: v for n, v in weights.items() if n != "attn_mask"})
        if set(found) != own:
            raise KeyError(min(set(found) ^ own))
        model.load_state_dict(found, strict=False)
    except Exception as error:  # what a damaged or foreign pickle raises has no common class
        raise UserError(
            f"{path} is not a checkpoint of open_clip ({type(error).__name__}: {error}): "
            "expected one such as HPS_v2.1_compressed.pt"
        ) from error
    return model.eval()


def _tower(weights: Mapping[str, Tensor], prefix: str, head: int) -> dict[str, Any]:
    blocks = {
        int(name.removeprefix(f"{prefix}.resblocks.").split(".")[0])
        for name in weights
        if name.startswith(f"{prefix}.resblocks.")
    }
    inner, width = weights[f"{prefix}.resblocks.0.mlp.c_fc.weight"].shape
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": width // head,
        "hidden_act": "gelu",
    }
