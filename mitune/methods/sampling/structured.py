"""Structured Diffusion Guidance (Feng et al., ICLR 2023, arXiv 2212.05032): each noun phrase is
also encoded alone, and cross-attention takes its values from all encodings.

The encoding W_i of phrase i takes the places of that phrase's tokens in the encoding W_p of the
whole prompt. Keys come from W_p, and with V_i the values of W_i the layer returns

    1 / (k + 1) (M V_p + sum over i of M V_i),    M = softmax(Q K^T / sqrt d).

M is the same in all terms and V_i is linear in W_i, so the layer's values are those of the mean of
the encodings.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.core.phrases import Parser, noun_phrases, token_at
from mitune.diffusion.schedule import Schedule
from mitune.methods.sampling.guided import Guided
from mitune.models.attention_maps import CROSS
from mitune.models.protocol import LatentModel


class StructuredGuidance(Guided):
    """Guidance whose cross-attention reads each noun phrase by itself too; arguments as of
    ``Guided``, and:

    Args:
        parser: finds the noun phrases.

    Raises:
        UserError: the conditioning is more than the encodings of one text encoder.
    """

    def __init__(
        self,
        model: LatentModel,
        prompts: Sequence[str],
        schedule: Schedule,
        guidance: float,
        parser: Parser = noun_phrases,
    ) -> None:
        super().__init__(model, prompts, schedule, guidance)
        if len(self.cond) != 1:
            raise UserError(
                "Structured Diffusion Guidance mixes the encodings of one text encoder: expected a "
                f"model that is conditioned on them alone, and {model.name} on "
                f"{', '.join(sorted(self.cond))}"
            )
        (encoded,) = self.cond.values()
        self.values = torch.stack(
            [
                self._mixed(row, text, parser)
                for row, text in zip(encoded, self.prompts, strict=True)
            ]
        )

    def _mixed(self, whole: Tensor, prompt: str, parser: Parser) -> Tensor:
        """The mean of a prompt's encodings, ``[L, D]``."""
        tokenizer = self.model.pipeline.tokenizer
        encodings = [whole]
        for phrase in parser(prompt):
            start = token_at(tokenizer, prompt, phrase.start) + 1
            end = min(token_at(tokenizer, prompt, phrase.end) + 1, len(whole) - 1)
            (alone,) = self.model.encode_prompts([phrase.text]).values()
            replaced = whole.clone()
            replaced[start:end] = alone[0, 1 : 1 + max(0, end - start)]
            encodings.append(replaced)
        return torch.stack(encodings).mean(dim=0)

    def predict(self, z: Tensor, step: int) -> tuple[Tensor, Tensor]:
        rows = len(self.values)

        def replace(module: Any, given: tuple[Tensor, ...]) -> tuple[Tensor]:
            text = given[0].clone()
            text[rows:] = self.values.to(text.dtype)
            return (text,)

        with ExitStack() as hooks:
            for name, layer in self.network.named_modules():
                if name.endswith(f"{CROSS}.to_v"):
                    hooks.callback(layer.register_forward_pre_hook(replace).remove)
            return super().predict(z, step)
