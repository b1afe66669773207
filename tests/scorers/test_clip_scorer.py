"""CLIP's cosine, its preprocessing as transformers' own, and what scales it."""

import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from mitune.core.images import as_pictures
from mitune.scorers.clip import ClipScorer
from mitune.scorers.pixels import MEAN, SPREAD, cropped, padded, stretched
from tests.scorers.conftest import SIZES

PROMPTS = ["a red circle", "a blue square and a green star"]


@pytest.fixture(scope="module")
def model(clip_tokenizer):
    torch.manual_seed(0)
    ids = {
        "vocab_size": len(clip_tokenizer),
        "eos_token_id": clip_tokenizer.eos_token_id,
        "bos_token_id": clip_tokenizer.bos_token_id,
    }
    config = CLIPConfig(
        text_config=SIZES | ids,
        vision_config={**SIZES, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    return CLIPModel(config).eval()


def test_cropped_is_what_transformers_own_processor_makes(pictures):
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    expected = processor(as_pictures(pictures), return_tensors="pt").pixel_values
    torch.testing.assert_close(cropped(pictures, 32), expected, atol=1e-5, rtol=0)


def test_stretched_keeps_the_whole_picture():
    picture = torch.zeros(1, 3, 8, 16)
    picture[..., 8:] = 1
    made = stretched(picture, 8)
    assert made.shape == (1, 3, 8, 8)
    assert bool((made[0, :, :, 0] < made[0, :, :, -1]).all())


def test_padded_shows_the_whole_picture_in_the_middle_of_black():
    made = padded(torch.ones(1, 3, 8, 16), 8)
    seen = made[0, 0, :, 4]
    black, white = (torch.tensor((v - MEAN[0]) / SPREAD[0]) for v in (0.0, 1.0))
    torch.testing.assert_close(seen, torch.stack([black] * 2 + [white] * 4 + [black] * 2))


def test_the_score_is_the_cosine_of_the_two_embeddings(model, clip_tokenizer, pictures):
    found = ClipScorer("clip", model, clip_tokenizer).score(pictures, PROMPTS)
    text = clip_tokenizer(PROMPTS, padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        pooled = model.text_model(**text).pooler_output
        words = model.text_projection(pooled)
        seen = model.visual_projection(model.vision_model(cropped(pictures, 32)).pooler_output)
    expected = torch.cosine_similarity(words.double(), seen.double())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    scorer = ClipScorer("clip", model, clip_tokenizer)
    for other in (scorer.score(pictures.flip(0), PROMPTS), scorer.score(pictures, PROMPTS[::-1])):
        assert float((other - found).abs().min()) > 1e-3  # it looks at the picture and reads


def test_pick_score_is_scaled_by_the_learned_scale(model, clip_tokenizer, pictures):
    plain = ClipScorer("clip", model, clip_tokenizer).score(pictures, PROMPTS)
    scaled = ClipScorer("pick", model, clip_tokenizer, scaled=True).score(pictures, PROMPTS)
    torch.testing.assert_close(scaled, plain * model.logit_scale.exp().item(), rtol=1e-5, atol=0)


def test_a_pair_does_not_depend_on_its_neighbours(model, clip_tokenizer, pictures):
    scorer = ClipScorer("clip", model, clip_tokenizer)
    alone = scorer.score(pictures[1:], PROMPTS[1:])
    torch.testing.assert_close(scorer.score(pictures, PROMPTS)[1:], alone, atol=1e-5, rtol=0)
