"""The pairs of one size on the device, with their conditioning."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.models.protocol import Conditioning, LatentModel, concat, take

_ENCODE = 64


class Group:
    """The pairs whose pictures have one size, and their conditioning, which may depend on it.

    Args:
        model, pairs, config: as for ``mitune.training.batches.Batches``.
        own: the numbers of this size's pairs.
        worse: for each of ``pairs`` one that it is preferred to; or none at all.
        wrong: for each prompt one that does not fit its pictures; or none at all.
    """

    def __init__(
        self,
        model: LatentModel,
        pairs: Sequence[tuple[str, Tensor]],
        own: Sequence[int],
        config: TuneConfig,
        worse: Sequence[tuple[str, Tensor]] = (),
        wrong: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._device = model.device
        self._worse: Tensor | None = None
        if worse:
            others = [worse[i][1] for i in own]
            if any(other.shape != pairs[i][1].shape for i, other in zip(own, others, strict=True)):
                raise UserError(
                    "a worse picture has another size than the one that is preferred to it: "
                    "expected sets of one size"
                )
            self._worse = torch.stack(others).float().to(model.device)
        self._latents = torch.stack([pairs[i][1] for i in own]).float().to(model.device)
        self._place = torch.full((len(pairs),), -1)
        self._place[torch.tensor(own)] = torch.arange(len(own))
        height, width = self._latents.shape[-2:]
        if (height, width) != tuple(model.latent_shape[-2:]):
            model = model.at((height, width))
        prompts = list(dict.fromkeys(pairs[i][0] for i in own))
        row = {prompt: number for number, prompt in enumerate(prompts)}
        self._row = torch.tensor([row[pairs[i][0]] for i in own])
        self._wrong: Tensor | None = None
        if wrong:
            self._wrong = len(prompts) + self._row
            prompts += [wrong[prompt] for prompt in row]
        # A text encoder in training has to encode in every step; only its tokens can be kept.
        frozen = config.text_encoder_lr is None
        encode = model.encode_prompts if frozen else model.tokenize
        parts: list[Conditioning] = [
            encode(prompts[i : i + _ENCODE]) for i in range(0, len(prompts), _ENCODE)
        ]
        if config.caption_dropout > 0:
            parts.append(model.encode_null() if frozen else model.tokenize_null())
        place = torch.device("cpu") if model.offload else model.device
        self._cond = {name: tensor.to(place) for name, tensor in concat(parts).items()}
        self._null = len(prompts)

    def take(self, pairs: Tensor, dropped: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents and conditioning of pairs of this size, by their numbers ``[B]``; ``dropped``
        says whose caption is none."""
        place = self._place[pairs]
        rows = torch.where(dropped, self._null, self._row[place])
        return self._latents[place.to(self._device)], self._conditioning(rows)

    def _conditioning(self, rows: Tensor) -> dict[str, Tensor]:
        cond = take(self._cond, rows)
        return {name: tensor.to(self._device) for name, tensor in cond.items()}

    def worse(self, pairs: Tensor) -> Tensor | None:
        """The latents that pairs of this size are preferred to."""
        if self._worse is None:
            return None
        return self._worse[self._place[pairs].to(self._device)]

    def wrong(self, pairs: Tensor) -> dict[str, Tensor] | None:
        """The conditioning of prompts that do not fit pairs of this size."""
        if self._wrong is None:
            return None
        return self._conditioning(self._wrong[self._place[pairs]])
