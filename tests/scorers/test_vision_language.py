"""Questions to a vision-language model: the first token's probability, and how answers combine."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from mitune.core.errors import UserError
from mitune.core.images import as_pictures
from mitune.scorers.vision_language import (
    SoftTifa,
    VisionLanguage,
    VqaScore,
    read_questions,
    surface,
)
from tests.scorers.conftest import SIZES

CHAT = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} answer"
)


@pytest.fixture(scope="module")
def asked():
    torch.manual_seed(0)
    words = ["[UNK]", "[PAD]", "<image>", "Yes", "yes", "No", "two", "2", "Does", "red", "dog", "?"]
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        additional_special_tokens=["<image>"],
    )
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32),
        fast,
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=CHAT,
        num_additional_image_tokens=1,
    )
    config = LlavaConfig(
        text_config={
            **SIZES,
            "model_type": "llama",
            "vocab_size": len(words),
            "num_key_value_heads": 2,
        },
        vision_config={
            **SIZES,
            "model_type": "clip_vision_model",
            "image_size": 32,
            "patch_size": 16,
        },
        image_token_index=2,
    )
    return VisionLanguage(LlavaForConditionalGeneration(config).eval(), processor)


def test_the_probability_is_that_of_the_first_generated_token(asked, pictures):
    prompt = '<image> Does this figure show "red dog"? Please answer yes or no. answer'
    inputs = asked.processor(text=[prompt], images=as_pictures(pictures[:1]), return_tensors="pt")
    out = asked.model.generate(
        **inputs, max_new_tokens=1, output_logits=True, return_dict_in_generate=True
    )
    expected = out.logits[0][0].double().softmax(dim=0)[3]
    found = VqaScore(asked).score(pictures[:1], ["red dog"])
    torch.testing.assert_close(found, expected[None], atol=1e-6, rtol=0)
    other = VqaScore(asked).score(pictures[1:], ["red dog"])
    assert float((other - found).abs()) > 1e-5  # it looks at the picture


def test_several_answers_count_once_each(asked, pictures):
    one, other, both = (
        asked.probability(pictures[0], "red dog ?", answers)
        for answers in (["Yes"], ["yes"], ["Yes", " Yes", "yes", "Yes"])
    )
    assert both == pytest.approx(one + other, rel=1e-9)


def test_answers_begin_with_and_without_capitals_spaces_and_digits():
    assert surface("Is the dog red?", "Yes") == ["Yes", " Yes", "yes", " yes"]
    assert surface("How many dogs are there?", "two") == ["two", " two", "Two", " Two", "2", " 2"]


class Fixed:
    """A model that answers as it is told."""

    def __init__(self, chances):
        self.chances = chances

    def probability(self, image, question, answers):
        return self.chances[question.removesuffix(" Answer in one word.")]


QUESTIONS = {"two red dogs": [("How many dogs?", "two"), ("Is it red?", "Yes")]}


def test_soft_tifa_is_the_geometric_mean(pictures):
    asked = Fixed({"How many dogs?": 0.25, "Is it red?": 1.0})
    found = SoftTifa(asked, QUESTIONS).score(pictures[:1], ["two red dogs"])
    assert found.tolist() == pytest.approx([0.5])
    parts = SoftTifa(asked, QUESTIONS, "arithmetic").score(pictures[:1], ["two red dogs"])
    assert parts.tolist() == pytest.approx([0.625])


def test_a_certain_fault_is_no_infinity(pictures):
    asked = Fixed({"How many dogs?": 0.0, "Is it red?": 1.0})
    found = SoftTifa(asked, QUESTIONS).score(pictures[:1], ["two red dogs"])
    assert 0 <= float(found) < 1e-100


def test_prompts_without_questions_are_refused(pictures):
    with pytest.raises(UserError, match="2 prompts have no questions in the file, the first 'x'"):
        SoftTifa(Fixed({}), QUESTIONS).score(pictures, ["x", "y"])


def test_questions_are_read_from_json_lines(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"prompt": "a", "vqa_list": [["q?", "Yes"]], "skills": ["x"]}\n\n')
    assert read_questions(path) == {"a": [("q?", "Yes")]}


@pytest.mark.parametrize("line", ["[]", '{"prompt": "a"}', '{"prompt": "a", "vqa_list": [1]}', "{"])
def test_other_lines_are_refused_by_number(tmp_path, line):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"prompt": "a", "vqa_list": []}\n' + line)
    with pytest.raises(UserError, match="line 2: expected"):
        read_questions(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_questions(tmp_path / "none")
