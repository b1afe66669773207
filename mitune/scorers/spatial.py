"""2D-spatial relations by the rule of T2I-CompBench's UniDet metric (Huang et al., arXiv
2307.06350, §4.2), on boxes from any detector.

The rule as its code has it, with what that code does beyond the paper: the first of its relations
that occurs in the prompt counts, "on top of" is read and never satisfied, a score below 0.5 becomes
0, so that one object alone never scores. ``spatial`` finds the boxes with an open-vocabulary
detector of transformers, so its numbers are not UniDet's; ``read_unidet`` reads UniDet's own.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.core.images import as_pictures
from mitune.core.phrases import Parser, noun_phrases
from mitune.core.reading import read_file
from mitune.scorers.weights import loaded

_RELATIONS = (
    "on side of",
    "next to",
    "near",
    "on the left of",
    "on the right of",
    "on the bottom of",
    "on the top of",
    "on top of",
)
"""In the order in which the published code looks for them."""
_PEOPLE = ("girl", "boy", "man", "woman")
_OVERLAP, _NEAR = 0.1, 150.0
"""Intersection over union up to which objects lie apart; pixels within which they are near."""
_LEAST = 0.5


class Box(NamedTuple):
    """A found object, in pixels."""

    left: float
    top: float
    right: float
    bottom: float
    confidence: float


def placed(relation: str | None, one: Box, other: Box) -> float:
    """How well ``one`` is in the relation to ``other``, 0 to 1."""
    dx = (other.left + other.right - one.left - one.right) / 2
    dy = (other.top + other.bottom - one.top - one.bottom) / 2
    if relation in ("next to", "on side of", "near"):
        apart = max(abs(dx), abs(dy))
        return 1.0 if min(abs(dx), abs(dy)) < _NEAR else _NEAR / apart
    along, across = {
        "on the right of": (-dx, dy),
        "on the left of": (dx, dy),
        "on the bottom of": (-dy, dx),
        "on the top of": (dy, dx),
    }.get(relation or "", (0.0, 0.0))
    if along <= abs(across):
        return 0.0
    overlap = _overlap(one, other)
    return 1.0 if overlap < _OVERLAP else _OVERLAP / overlap


def _overlap(one: Box, other: Box) -> float:
    width = max(0.0, min(one.right, other.right) - max(one.left, other.left))
    height = max(0.0, min(one.bottom, other.bottom) - max(one.top, other.top))
    areas = [(b.right - b.left) * (b.bottom - b.top) for b in (one, other)]
    return width * height / (sum(areas) - width * height)


def rule(prompt: str, one: Box | None, other: Box | None) -> float:
    """The metric of a picture in which ``one`` is the first object that the prompt names, and
    ``other`` the last; None: not found."""
    value = sum(0.25 * box.confidence for box in (one, other) if box is not None)
    if one is not None and other is not None:
        relation = next((r for r in _RELATIONS if r in prompt), None)
        value += placed(relation, one, other) / 2
    return value if value >= _LEAST else 0.0


@dataclass
class Spatial:
    """The rule on the boxes of an open-vocabulary detector."""

    model: Any
    """Of transformers' AutoModelForZeroShotObjectDetection."""
    processor: Any
    threshold: float = 0.1
    """Least confidence of a box."""
    parser: Parser = noun_phrases
    name: str = "spatial"
    requires: str = "an open-vocabulary detector's weights; a parser of noun phrases"

    def objects(self, prompt: str) -> tuple[str, str] | None:
        """The first and the last noun; None where the prompt has none."""
        nouns = [prompt[slice(*phrase.noun)] for phrase in self.parser(prompt)]
        if not nouns:
            return None
        first, last = ("person" if n in _PEOPLE else n for n in (nouns[0], nouns[-1]))
        return first, last

    def score(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """As :class:`mitune.scoring.scorer.Scorer`; prompts without a noun score 0."""
        found = []
        for image, prompt in zip(images, prompts, strict=True):
            named = self.objects(prompt)
            boxes = self.boxes(image, named) if named else (None, None)
            found.append(rule(prompt, *boxes))
        return torch.tensor(found, dtype=torch.float64)

    @torch.no_grad()
    def boxes(self, image: Tensor, names: tuple[str, str]) -> tuple[Box | None, Box | None]:
        """The most confident box of each of the two names."""
        texts = [[f"a {name}" for name in dict.fromkeys(names)]]
        device = next(self.model.parameters()).device
        inputs = self.processor(
            text=texts, images=as_pictures(image[None]), return_tensors="pt"
        ).to(device)
        (result,) = self.processor.post_process_grounded_object_detection(
            self.model(**inputs),
            threshold=self.threshold,
            target_sizes=[tuple(image.shape[1:])],
            text_labels=texts,
        )
        best: dict[str, Box] = {}
        for score, label, corners in zip(
            result["scores"].tolist(), result["text_labels"], result["boxes"].tolist(), strict=True
        ):
            if label not in best or score > best[label].confidence:
                left, top, right, bottom = corners
                best[label] = Box(left, top, right, bottom, score)
        one, other = (best.get(f"a {name}") for name in names)
        return one, other


def read_unidet(path: Path) -> dict[int, float]:
    """The scores by picture number of UniDet's own ``vqa_result.json``.

    Raises:
        UserError: the file is otherwise.
    """
    try:
        rows = json.loads(read_file(path))
        return {int(row["question_id"]): float(row["answer"]) for row in rows}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is not a result of T2I-CompBench's evaluation ({error}): expected a JSON "
            'list of {"question_id": ..., "answer": ...}'
        ) from None


def load(weights: str) -> Spatial:
    """Load a detector from a folder or hub name.

    Raises:
        UserError: the weights are not there.
    """
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    model = loaded("spatial", weights, AutoModelForZeroShotObjectDetection.from_pretrained)
    return Spatial(model.eval(), loaded("spatial", weights, AutoProcessor.from_pretrained))
