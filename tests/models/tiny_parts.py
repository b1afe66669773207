"""What the tiny pipelines of several families share, and how the tests look at their models."""

from typing import Any

import torch
from diffusers import AutoencoderKL
from tokenizers import Tokenizer
from tokenizers.models import Unigram, WordLevel
from tokenizers.pre_tokenizers import Metaspace, Sequence, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from mitune.worlds.shapes_v1.model import FOLDER
from mitune.worlds.shapes_v1.prompts import prompts

TEXTS = ["a red circle", "a blue square above a green circle"]


def words() -> Any:
    """The embedded model's tokenizer."""
    return CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")


def clip(tokenizer: Any, width: int, **changes: Any) -> CLIPTextConfig:
    """Of a text encoder of ``width``; ``changes`` are the configuration's."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        eos_token_id=tokenizer.eos_token_id,
        **changes,
    )


def t5_words() -> Any:
    """A tokenizer of T5's kind, which knows the embedded world's words whole."""
    pieces = sorted({"▁" + word for text in prompts("train") for word in text.split()})
    letters = sorted(set("▁" + "".join(pieces)))
    scores = [(piece, -1.0) for piece in ("<pad>", "</s>", "<unk>")]
    scores += [(piece, -2.0) for piece in pieces] + [(letter, -9.0) for letter in letters]
    backend = Tokenizer(Unigram(list(dict(scores).items()), unk_id=2, byte_fallback=False))
    backend.pre_tokenizer = Sequence([WhitespaceSplit(), Metaspace()])
    backend.post_processor = TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return T5TokenizerFast(tokenizer_object=backend, extra_ids=0, model_max_length=512)


def chat_words() -> Any:
    """A tokenizer of a language model that is talked to, which knows the embedded world's words."""
    found = sorted({word for text in prompts("train") for word in text.split()})
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", "<user>", "<model>", *found])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=1024,
        chat_template="{% for m in messages %}<user> {{ m.content }} {% endfor %}<model>",
    )


def t5(tokenizer: Any, width: int) -> T5EncoderModel:
    """A text encoder of ``width``."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_ff=2 * width,
        d_kv=8,
        num_layers=2,
        num_heads=2,
        initializer_factor=2.0,
    )
    return T5EncoderModel(config).eval()


def language_model(
    kind: Any, tokenizer: Any, width: int, *, layers: int = 2, head: int = 12, **changes: Any
) -> Any:
    """A small one of a class of transformers, with weights so large that texts differ; ``changes``
    are the configuration's."""
    config = kind.config_class(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=head,
        initializer_range=0.5,
        **changes,
    )
    return kind(config).eval()


def vae(blocks: int, **changes: Any) -> AutoencoderKL:
    """Makes pictures that are ``2 ** (blocks - 1)`` times as large as their latents."""
    return AutoencoderKL(
        block_out_channels=(8,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=4,
        norm_num_groups=4,
        **changes,
    )


def strengthen(network: Any, parts: tuple[str, ...], std: float) -> None:
    """Draw the weights of the layers whose names hold one of ``parts`` again: with the default
    initialization neither text nor adapter would show in the predictions."""
    for name, weight in network.named_parameters():
        if name.endswith("weight") and any(part in name for part in parts):
            torch.nn.init.normal_(weight, std=std)


def with_lora(pipeline: Any, path: Any) -> Any:
    """``pipeline`` with what its own ``load_lora_weights`` reads at ``path``, in its weights."""
    pipeline.load_lora_weights(path)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    return pipeline


def furthest(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, as a part of ``other``'s largest element."""
    return float((one - other).abs().max() / other.abs().max())


@torch.no_grad()
def predict(model: Any) -> torch.Tensor:
    """A pass of two rows of noise, under TEXTS; of a model, or of one that is prepared."""
    shape = getattr(model, "model", model).latent_shape
    z = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    return model(z, torch.tensor([900.0, 200.0]), model.encode_prompts(TEXTS))
