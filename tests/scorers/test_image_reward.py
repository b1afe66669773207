"""ImageReward's arithmetic: its head is one affine map, and its scores are standardised."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import BlipTextModel, BlipVisionModel

from mitune.core.errors import UserError
from mitune.scorers.image_reward import ImageReward, head, load
from mitune.scorers.pixels import cropped
from tests.scorers.conftest import blip_config, louder

PROMPTS = ["a red dog", "a green bench"]


@pytest.fixture
def scorer(bert_tokenizer):
    torch.manual_seed(0)
    config = blip_config(32)
    text = BlipTextModel(config.text_config, add_pooling_layer=False).eval()
    vision, layers = BlipVisionModel(config.vision_config).eval(), head(32)
    louder(vision, text)
    return ImageReward(vision, text, layers, bert_tokenizer)


def test_the_head_is_the_published_stack_of_linear_layers():
    assert [layer.weight.shape for layer in head(768)] == [
        (1024, 768),
        (128, 1024),
        (64, 128),
        (16, 64),
        (1, 16),
    ]


@torch.no_grad()
def test_the_score_is_an_affine_map_of_the_first_token_standardised(scorer, pictures):
    # One prompt at a time, without padding, with the head's layers multiplied out in float64.
    weight, bias = torch.eye(32, dtype=torch.float64), torch.zeros(32, dtype=torch.float64)
    for layer in scorer.head:
        weight = layer.weight.double() @ weight
        bias = layer.weight.double() @ bias + layer.bias.double()
    expected = []
    for image, prompt in zip(pictures, PROMPTS, strict=True):
        seen = scorer.vision(cropped(image[None], 32)).last_hidden_state
        text = scorer.tokenizer(prompt, return_tensors="pt")
        read = scorer.text(
            input_ids=text.input_ids,
            attention_mask=text.attention_mask,
            encoder_hidden_states=seen,
        ).last_hidden_state[0, 0]
        expected.append((weight @ read.double() + bias - 0.16717362830052426) / 1.0333394966054072)
    found = scorer.score(pictures, PROMPTS)
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-6, rtol=0)
    for other in (scorer.score(pictures.flip(0), PROMPTS), scorer.score(pictures, PROMPTS[::-1])):
        assert float((other - found).abs().min()) > 1e-4  # it looks at the picture and reads


def test_it_loads_from_a_converted_folder(scorer, pictures, tmp_path):
    scorer.vision.save_pretrained(tmp_path / "vision")
    scorer.text.save_pretrained(tmp_path / "text")
    scorer.tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(UserError, match=r"has no head\.safetensors"):
        load(str(tmp_path))
    save_file(scorer.head.state_dict(), tmp_path / "head.safetensors")
    expected = scorer.score(pictures, PROMPTS)
    assert torch.equal(load(str(tmp_path)).score(pictures, PROMPTS), expected)
