"""ImageReward (Xu et al., arXiv 2304.05977): BLIP's text encoder reads the prompt and looks at the
picture; five linear layers without anything between them read its first token, and the result is
standardised by the numbers of the authors' data."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mitune.core.errors import UserError
from mitune.scorers import blip
from mitune.scorers.pixels import cropped
from mitune.scorers.weights import loaded

_MEAN, _SPREAD = 0.16717362830052426, 1.0333394966054072
_WIDTHS = (1024, 128, 64, 16, 1)
_LONGEST = 35
_BATCH = 32
_HEAD = "head.safetensors"


def head(width: int) -> nn.Sequential:
    """The linear layers, from the text encoder's width to a number; dropout is left out, as it acts
    in training alone."""
    widths = (width, *_WIDTHS)
    return nn.Sequential(*(nn.Linear(*pair) for pair in pairwise(widths)))


@dataclass
class ImageReward:
    """ImageReward of pictures."""

    vision: Any
    """A transformers BlipVisionModel."""
    text: Any
    """A transformers BlipTextModel that attends to pictures, without pooling."""
    head: nn.Module
    tokenizer: Any
    name: str = "image-reward"
    requires: str = "ImageReward's weights, converted"

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """As :class:`mitune.scoring.scorer.Scorer`; longer prompts are cut to 35 tokens."""
        found = []
        size, device = self.vision.config.image_size, next(self.vision.parameters()).device
        for rows in torch.arange(len(prompts)).split(_BATCH):
            text = self.tokenizer(
                [prompts[i] for i in rows],
                padding="max_length",
                truncation=True,
                max_length=_LONGEST,
                return_tensors="pt",
            ).to(device)
            picture = blip.seen(self.vision, cropped(images[rows], size).to(device))
            states = blip.read(self.text, text.input_ids, text.attention_mask, picture)
            found.append(self.head(states[:, 0])[:, 0].double())
        return ((torch.cat(found) - _MEAN) / _SPREAD).cpu()


def load(weights: str) -> ImageReward:
    """Load it from a folder with ``vision/``, ``text/``, ``tokenizer/`` in transformers' layout and
    ``head.safetensors``, names as of :func:`head`.

    Raises:
        UserError: the weights are not there.
    """
    from safetensors.torch import load_file
    from transformers import BertTokenizer, BlipTextModel, BlipVisionModel

    folder = Path(weights)
    if not (folder / _HEAD).is_file():
        raise UserError(
            f"scorer image-reward needs converted weights, and {weights!r} has no {_HEAD}: "
            "expected a folder with vision/, text/, tokenizer/ and it; give image-reward=FOLDER"
        )
    vision = loaded("image-reward", str(folder / "vision"), BlipVisionModel.from_pretrained)
    text = loaded(
        "image-reward", str(folder / "text"), BlipTextModel.from_pretrained, add_pooling_layer=False
    )
    tokenizer = loaded("image-reward", str(folder / "tokenizer"), BertTokenizer.from_pretrained)
    layers = head(text.config.hidden_size)
    layers.load_state_dict(load_file(folder / _HEAD))
    return ImageReward(vision.eval(), text.eval(), layers.eval(), tokenizer)
