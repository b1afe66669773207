"""Metrics that ask a vision-language model, by the probability of its first word.

* ``vqa-score`` (Lin et al., arXiv 2404.01291): P("Yes") to "Does this figure show "PROMPT"?
  Please answer yes or no."
* ``soft-tifa`` (GenEval 2, arXiv 2512.16853): P(right answer) to each of a prompt's questions, and
  their geometric mean, so that one fault counts; ``mean="arithmetic"`` counts parts. Its questions
  come from the benchmark's file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.core.images import as_pictures
from mitune.core.reading import read_file
from mitune.scorers.weights import loaded

_SHOWS = 'Does this figure show "{}"? Please answer yes or no.'
_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS.split(" "))}
_LEAST = 1e-300
"""Of a probability whose logarithm is taken."""

Asked = tuple[str, str]
"""A question and its right answer."""


@dataclass
class VisionLanguage:
    """A model that reads a picture and a question."""

    model: Any
    """Of transformers' AutoModelForImageTextToText."""
    processor: Any

    @torch.no_grad()
    def probability(self, image: Tensor, question: str, answers: Sequence[str]) -> float:
        """That the first token of the answer is that of one of ``answers``."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = self.processor(text=[prompt], images=as_pictures(image[None]), return_tensors="pt")
        device = next(self.model.parameters()).device
        inputs = {name: value.to(device) for name, value in inputs.items()}
        chances = self.model(**inputs).logits[0, -1].double().softmax(dim=0)
        encode = self.processor.tokenizer
        first = {encode(text, add_special_tokens=False).input_ids[0] for text in answers}
        return float(chances[sorted(first)].sum())


@dataclass
class VqaScore:
    """P("Yes") to whether the picture shows the prompt."""

    asked: VisionLanguage
    name: str = "vqa-score"
    requires: str = "a vision-language model's weights"

    def score(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """As :class:`mitune.scoring.scorer.Scorer`."""
        pairs = zip(images, prompts, strict=True)
        found = [self.asked.probability(i, _SHOWS.format(p), ["Yes"]) for i, p in pairs]
        return torch.tensor(found, dtype=torch.float64)


@dataclass
class SoftTifa:
    """The mean of the probabilities of the right answers to a prompt's questions."""

    asked: VisionLanguage
    questions: Mapping[str, Sequence[Asked]]
    mean: Literal["geometric", "arithmetic"] = "geometric"
    name: str = "soft-tifa"
    requires: str = "a vision-language model's weights; a file of questions"

    def score(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """As :class:`mitune.scoring.scorer.Scorer`.

        Raises:
            UserError: a prompt has no questions.
        """
        missing = [prompt for prompt in prompts if not self.questions.get(prompt)]
        if missing:
            raise UserError(
                f"{len(missing)} prompts have no questions in the file, the first {missing[0]!r}: "
                "expected the benchmark's own prompts"
            )
        found = []
        for image, prompt in zip(images, prompts, strict=True):
            chances = torch.tensor(
                [
                    self.asked.probability(image, f"{q} Answer in one word.", surface(q, answer))
                    for q, answer in self.questions[prompt]
                ],
                dtype=torch.float64,
            )
            geometric = chances.clamp_min(_LEAST).log().mean().exp()
            found.append(geometric if self.mean == "geometric" else chances.mean())
        return torch.stack(found)


def surface(question: str, answer: str) -> list[str]:
    """The ways to begin the right answer: with and without a capital and a space; numbers also as
    digits."""
    forms = [answer, answer.capitalize(), answer.lower()]
    if question.startswith("How many"):
        forms += [_DIGITS[answer.lower()]] if answer.lower() in _DIGITS else []
    return [space + form for form in dict.fromkeys(forms) for space in ("", " ")]


def read_questions(path: Path) -> dict[str, list[Asked]]:
    """Read GenEval 2's JSON lines, each with ``prompt`` and ``vqa_list`` of question and answer.

    Raises:
        UserError: naming the first line that is otherwise.
    """
    found = {}
    try:
        text = read_file(path).decode()
    except (OSError, ValueError) as error:
        raise UserError(f"questions {path} cannot be read ({error}): expected JSON lines") from None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found[str(row["prompt"])] = [(str(q), str(a)) for q, a in row["vqa_list"]]
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f'questions {path}, line {number}: expected {{"prompt": ..., "vqa_list": '
                "[[question, answer], ...]}"
            ) from None
    return found


def load(name: str, weights: str) -> VisionLanguage:
    """Load a model from a folder or hub name.

    Raises:
        UserError: the weights are not there.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = loaded(name, weights, AutoModelForImageTextToText.from_pretrained, dtype="auto")
    return VisionLanguage(model.eval(), loaded(name, weights, AutoProcessor.from_pretrained))
