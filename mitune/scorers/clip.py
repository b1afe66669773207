"""Metrics that are CLIP models: the cosine of a picture's and a prompt's embedding.

* ``clip``: the cosine by OpenAI's ViT-B/32, as T2I-CompBench uses it for non-spatial relations
  (CLIPScore of Hessel et al., arXiv 2104.08718, is 2.5 max(cosine, 0): the same order).
* ``hps``: HPS v2.1 (Wu et al., arXiv 2306.09341), the cosine by a ViT-H/14 tuned on preferences;
  comparable within one prompt. Pictures that are not square are padded. Its weights are a
  checkpoint of open_clip; the package hpsv2 loads those of v2.0 by default.
* ``pick``: PickScore (Kirstain et al., arXiv 2305.01569), the cosine times the learned scale.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mitune.scorers.open_clip import read_model
from mitune.scorers.pixels import cropped
from mitune.scorers.weights import loaded

_BATCH = 32
_TOKENIZER = "openai/clip-vit-base-patch32"
_LONGEST = 77
"""Tokens of a prompt that CLIP reads."""


@dataclass
class ClipScorer:
    """Cosine of picture and prompt, times the model's own scale where ``scaled``."""

    name: str
    model: Any
    """A transformers CLIPModel."""
    tokenizer: Any
    scaled: bool = False
    frame: Callable[[Tensor, int], Tensor] = cropped
    """Brings pictures to the model's square."""
    requires: str = "a CLIP model's weights"

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """As :class:`mitune.scoring.scorer.Scorer`; longer prompts are cut to what CLIP reads."""
        found = []
        size = self.model.config.vision_config.image_size
        device = next(self.model.parameters()).device
        for rows in torch.arange(len(prompts)).split(_BATCH):
            texts = self.tokenizer(
                [prompts[i] for i in rows],
                padding="max_length",
                max_length=_LONGEST,
                truncation=True,
                return_tensors="pt",
            )
            # The networks' own output, whose embeddings are normalised.
            out = self.model(
                input_ids=texts.input_ids.to(device),
                attention_mask=texts.attention_mask.to(device),
                pixel_values=self.frame(images[rows], size).to(device),
            )
            cosine = (out.image_embeds * out.text_embeds).sum(dim=1).double()
            found.append(cosine * self.model.logit_scale.exp().double() if self.scaled else cosine)
        return torch.cat(found).cpu()


def load(
    name: str,
    weights: str,
    *,
    scaled: bool = False,
    frame: Callable[[Tensor, int], Tensor] = cropped,
) -> ClipScorer:
    """Load one from a folder or hub name, or from a checkpoint of open_clip (.pt), whose tokenizer
    is that of the same folder or else CLIP's own.

    Raises:
        UserError: the weights are not there.
    """
    from transformers import CLIPModel, CLIPTokenizer

    if weights.endswith(".pt"):
        folder = Path(weights).parent
        words = str(folder) if (folder / "vocab.json").is_file() else _TOKENIZER
        tokenizer = loaded(name, words, CLIPTokenizer.from_pretrained)
        return ClipScorer(name, read_model(Path(weights)), tokenizer, scaled, frame)
    return ClipScorer(
        name,
        loaded(name, weights, CLIPModel.from_pretrained, use_safetensors=True).eval(),
        loaded(name, weights, CLIPTokenizer.from_pretrained),
        scaled,
        frame,
    )
