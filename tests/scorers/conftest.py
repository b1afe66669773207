"""Tiny models with random weights of the classes that the metrics use."""

from pathlib import Path

import pytest
import torch

WORDS = {
    "[PAD]": 0,
    "[UNK]": 100,
    "[CLS]": 101,
    "[SEP]": 102,
    "?": 1029,
    "a": 1037,
    "no": 2053,
    "red": 2417,
    "yes": 2748,
    "green": 2665,
    "dog": 3899,
    "bench": 6847,
}
"""Of BERT's vocabulary, with the numbers that it has there."""
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
"""Of a transformer in a tiny model."""


@pytest.fixture(scope="session")
def bert_tokenizer(tmp_path_factory):
    """BERT's tokenizer, with a vocabulary that has a few words at their own places."""
    from transformers import BertTokenizer

    lines = [f"[unused{i}]" for i in range(30522)]
    for word, number in WORDS.items():
        lines[number] = word
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_text("\n".join(lines))
    return BertTokenizer(str(path))


@pytest.fixture(scope="session")
def clip_tokenizer():
    from transformers import CLIPTokenizer

    import mitune

    folder = Path(mitune.__file__).parent / "shapes" / "pretrained" / "tokenizer"
    return CLIPTokenizer.from_pretrained(folder)


@pytest.fixture
def pictures():
    """Two pictures, wider than high; the second one's middle is dark."""
    made = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    made[1, :, 10:30, 14:42] = 0.1
    return made


def louder(*networks):
    """Scale random weights up, so that what a network reads changes what it says by far more than
    a test's bound."""
    for network in networks:
        for parameter in network.parameters():
            parameter.data.mul_(4)


def blip_config(size):
    from transformers import BlipConfig

    text = {"encoder_hidden_size": 32, "max_position_embeddings": 64}
    # The class's own range is 1e-10: every picture would be the same to it.
    vision = {"image_size": size, "patch_size": 16, "initializer_range": 0.02}
    return BlipConfig(text_config=SIZES | text, vision_config=SIZES | vision)
