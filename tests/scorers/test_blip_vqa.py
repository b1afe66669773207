"""BLIP-VQA against transformers' own generation, and each of the published code's rules."""

import pytest
import torch
from transformers import BlipForQuestionAnswering

from mitune.core.phrases import NounPhrase
from mitune.scorers import blip_vqa
from mitune.scorers.blip_vqa import BlipVqa
from mitune.scorers.pixels import stretched
from tests.scorers.conftest import blip_config, louder

QUESTIONS = ["a red dog?", "a green bench?"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = BlipForQuestionAnswering(blip_config(32)).eval()
    louder(model)
    return model


def generated(model, ids, mask, pixels):
    """P(yes) of the first step that transformers' ``generate`` takes."""
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        pixel_values=pixels,
        interpolate_pos_encoding=True,
        max_new_tokens=1,
        output_logits=True,
        return_dict_in_generate=True,
    )
    chances = out.logits[0].double().softmax(dim=1)
    return chances[:, 2748] / (chances[:, 2748] + chances[:, 2053])


def test_hf_is_the_first_step_of_transformers_own_generation(model, bert_tokenizer, pictures):
    text = bert_tokenizer(QUESTIONS, return_tensors="pt", padding=True)
    expected = generated(model, text.input_ids, text.attention_mask, stretched(pictures, 32))
    found = BlipVqa(model, bert_tokenizer, "hf").yes(pictures, QUESTIONS)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    other = BlipVqa(model, bert_tokenizer, "hf").yes(pictures.flip(0), QUESTIONS)
    assert float((other - found).abs().min()) > 1e-4  # it looks at the picture


def test_compbench_replaces_the_first_token_and_reads_480_pixels(model, bert_tokenizer, pictures):
    text = bert_tokenizer(QUESTIONS, return_tensors="pt", padding=True)
    ids = text.input_ids.clone()
    ids[:, 0] = 30523
    expected = generated(model, ids, text.attention_mask, stretched(pictures, 480))
    found = BlipVqa(model, bert_tokenizer).yes(pictures, QUESTIONS)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert not torch.allclose(found, BlipVqa(model, bert_tokenizer, "hf").yes(pictures, QUESTIONS))


def test_questions_are_cut_to_35_tokens(model, bert_tokenizer, pictures):
    scorer = BlipVqa(model, bert_tokenizer)
    long = " ".join(["a red dog"] * 20)
    found = scorer.yes(pictures[:1], [long])
    assert torch.equal(found, scorer.yes(pictures[:1], [long + " a green bench"]))


def test_marks_that_the_published_code_leaves_out(model, bert_tokenizer, pictures):
    one = pictures[:1]
    scorer = BlipVqa(model, bert_tokenizer)
    assert torch.equal(scorer.yes(one, ['A "red" dog.?']), scorer.yes(one, ["a red dog?"]))
    hf = BlipVqa(model, bert_tokenizer, "hf")
    assert not torch.equal(hf.yes(one, ['A "red" dog.?']), hf.yes(one, ["a red dog?"]))


def test_the_questions_are_the_phrases_with_their_determiners():
    scorer = BlipVqa(None, None)
    assert scorer.questions("a red dog and the green bench") == ["a red dog?", "the green bench?"]


def chunks(prompt):
    """A parser as spaCy's, to which "the left" is a phrase."""
    found = []
    for word in prompt.split("|"):
        start = prompt.index(word)
        found.append(NounPhrase(word, start, start + len(word)))
    return found


@pytest.mark.parametrize("place", ["top", "the side", "the left", "the right"])
def test_places_are_not_asked_about(place):
    assert BlipVqa(None, None, parser=chunks).questions(f"dog|{place}|bench") == ["dog?", "bench?"]


def test_eight_phrases_count():
    prompt = "|".join(f"thing{i}" for i in range(10))
    assert len(BlipVqa(None, None, parser=chunks).questions(prompt)) == 8


def test_the_score_is_the_product_of_rounded_probabilities(monkeypatch, pictures):
    answers = {"a red dog?": 0.33333, "a green bench?": 0.66667}
    monkeypatch.setattr(
        BlipVqa,
        "yes",
        lambda self, images, questions: torch.tensor(
            [answers[q] for q in questions], dtype=torch.float64
        ),
    )
    found = BlipVqa(None, None).score(pictures, ["a red dog and a green bench", "a red dog"])
    assert found.tolist() == [round(0.3333 * 0.6667, 4), 0.3333]


def test_a_prompt_without_phrases_scores_one(pictures):
    assert BlipVqa(None, None).score(pictures, ["and", "is"]).tolist() == [1.0, 1.0]


def test_it_loads_from_a_folder(model, bert_tokenizer, pictures, tmp_path):
    model.save_pretrained(tmp_path)
    bert_tokenizer.save_pretrained(tmp_path)
    prompts = ["a red dog", "a green bench"]
    found = blip_vqa.load(str(tmp_path)).score(pictures, prompts)
    assert torch.equal(found, BlipVqa(model, bert_tokenizer).score(pictures, prompts))
