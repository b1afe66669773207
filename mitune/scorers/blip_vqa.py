"""BLIP-VQA, as T2I-CompBench defines it (Huang et al., arXiv 2307.06350, §4.1): for each noun
phrase of the prompt the question "PHRASE?", and the product of the probabilities of "yes".

A phrase's probability is P(yes) / (P(yes) + P(no)) of the first word of the answer. Each is rounded
to four decimals, and so is the product. The first eight phrases count; phrases that are only a
place ("the left") do not; a prompt without any scores 1.

Two protocols:

* ``compbench``: pictures stretched to 480 pixels; questions in small letters without some marks,
  cut to 35 tokens, the first of which becomes BLIP's [ENC]: what the published numbers were made
  with.
* ``hf``: the class of transformers as it is, at its own picture size and with the question as its
  tokenizer makes it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mitune.core.phrases import Parser, noun_phrases, with_determiner
from mitune.scorers import blip
from mitune.scorers.pixels import stretched
from mitune.scorers.weights import loaded

Protocol = Literal["compbench", "hf"]

MOST_PHRASES = 8
DROPPED = ("top", "the side", "the left", "the right")
"""Phrases that the published code does not ask about."""
_SIZE, _LONGEST = 480, 35
_ENC, _BOS = 30523, 30522
"""Token ids of BLIP's tokenizer: what a question begins with, and an answer."""
_YES, _NO = 2748, 2053
_BATCH = 32
_LEFT_OUT = re.compile(r"[.!\"()*#:;~]")
"""Marks that the published code takes out of questions."""
_WORDS = 50
"""Of a question, that it keeps."""


@dataclass
class BlipVqa:
    """BLIP-VQA of the phrases that ``parser`` finds."""

    model: Any
    """A transformers BlipForQuestionAnswering."""
    tokenizer: Any
    protocol: Protocol = "compbench"
    parser: Parser = noun_phrases
    name: str = "blip-vqa"
    requires: str = "BLIP's weights for question answering; a parser of noun phrases"

    def questions(self, prompt: str) -> list[str]:
        """What is asked of a picture of the prompt."""
        phrases = [with_determiner(prompt, phrase) for phrase in self.parser(prompt)]
        return [f"{p}?" for p in phrases if p.lower() not in DROPPED][:MOST_PHRASES]

    def score(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """As :class:`mitune.scoring.scorer.Scorer`."""
        asked = [(i, q) for i, prompt in enumerate(prompts) for q in self.questions(prompt)]
        found = torch.ones(len(prompts), dtype=torch.float64)
        for start in range(0, len(asked), _BATCH):
            rows, questions = zip(*asked[start : start + _BATCH], strict=True)
            answers = self.yes(images[list(rows)], questions)
            for row, answer in zip(rows, answers.tolist(), strict=True):
                found[row] *= round(answer, 4)
        return torch.tensor([round(value, 4) for value in found.tolist()], dtype=torch.float64)

    @torch.no_grad()
    def yes(self, images: Tensor, questions: Sequence[str]) -> Tensor:
        """P(yes) / (P(yes) + P(no)) of each pair, ``[N]`` float64."""
        device = next(self.model.parameters()).device
        compbench = self.protocol == "compbench"
        if compbench:
            questions = [_plain(question) for question in questions]
        size = _SIZE if compbench else self.model.config.vision_config.image_size
        text = self.tokenizer(
            list(questions), padding="longest", truncation=True, max_length=_LONGEST,
            return_tensors="pt",
        ).to(device)  # fmt: skip
        ids = text.input_ids
        if compbench:
            ids[:, 0] = _ENC
        picture = blip.seen(self.model.vision_model, stretched(images, size).to(device))
        question = blip.read(self.model.text_encoder, ids, text.attention_mask, picture)
        logits = blip.first_word(self.model.text_decoder, _BOS, question, text.attention_mask)
        return logits[:, [_YES, _NO]].double().softmax(dim=1)[:, 0].cpu()


def _plain(question: str) -> str:
    kept = _LEFT_OUT.sub("", question.lower()).rstrip(" ")
    return " ".join(kept.split(" ")[:_WORDS])


def load(
    weights: str, *, protocol: Protocol = "compbench", parser: Parser = noun_phrases
) -> BlipVqa:
    """Load it from a folder or hub name.

    Raises:
        UserError: the weights are not there.
    """
    from transformers import BertTokenizer, BlipForQuestionAnswering

    model = loaded(
        "blip-vqa", weights, BlipForQuestionAnswering.from_pretrained, use_safetensors=True
    )
    tokenizer = loaded("blip-vqa", weights, BertTokenizer.from_pretrained)
    return BlipVqa(model.eval(), tokenizer, protocol, parser)
