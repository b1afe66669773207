"""Attend-and-Excite (Chefer et al., SIGGRAPH 2023, arXiv 2301.13826): before a step the latents
move so that every noun of the prompt gets some position's attention.

With A_s the attention of the positions to noun s, normalised over the words and smoothed, the loss
is ``max over s of 1 - max A_s`` (Eq. 1 and 2), and ``z <- z - alpha_t grad loss``. At some steps
this goes on until the loss is low enough (Algorithm 1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from mitune.core.errors import UserError
from mitune.core.phrases import Parser, noun_phrases, token_at
from mitune.diffusion.schedule import Schedule
from mitune.methods.sampling.guided import Guided
from mitune.models.attention_maps import attention_maps
from mitune.models.protocol import LatentModel, take

_SHARPEN = 100
"""Factor before the softmax over the words."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The authors' settings.

    Attributes:
        steps: share of the steps, from the first, before which the latents move.
        scale: alpha at the first step; it falls with the square root of a line from 1 to 1/2.
        thresholds: at these shares of the steps, of which attention at least one position has to
            pay to each noun, before sampling goes on.
        tries: moves at such a step at most.
        resolution: side of the attention maps; None: a quarter of the latents', and if no layer has
            it, the largest.
        up_to_end: the softmax is over the prompt's own words alone, as the authors have it where a
            denoiser pays much attention to the tokens after them.
        parser: finds the nouns.
    """

    steps: float = 0.5
    scale: float = 20.0
    thresholds: Mapping[float, float] = field(default_factory=lambda: {0: 0.05, 0.2: 0.5, 0.4: 0.8})
    tries: int = 20
    resolution: int | None = None
    up_to_end: bool = False
    parser: Parser = noun_phrases


class AttendAndExcite(Guided):
    """Guidance whose latents move towards neglected nouns; arguments as of ``Guided``, and:

    Args:
        settings: of the method.
        nouns: for each prompt the positions of its nouns among the tokens; None: those that the
            parser finds.

    Raises:
        UserError: a prompt has no noun phrase, or the denoiser no cross-attention.
    """

    def __init__(
        self,
        model: LatentModel,
        prompts: Sequence[str],
        schedule: Schedule,
        guidance: float,
        settings: Settings | None = None,
        nouns: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(model, prompts, schedule, guidance)
        self.settings = settings or Settings()
        tokenizer = model.pipeline.tokenizer
        self.nouns = [list(each) for each in nouns or self._found(tokenizer)]
        self.ends = [len(tokenizer(text).input_ids) - 1 for text in self.prompts]
        count = schedule.steps
        self._last = round(self.settings.steps * count)
        self._thresholds = {
            round(share * count): least for share, least in self.settings.thresholds.items()
        }

    def _found(self, tokenizer: object) -> list[list[int]]:
        found = []
        for text in self.prompts:
            phrases = self.settings.parser(text)
            if not phrases:
                raise UserError(
                    f"prompt {text!r} has no noun phrase that the parser finds: Attend-and-Excite "
                    "needs one, such as 'a red apple'"
                )
            found.append([token_at(tokenizer, text, phrase.noun[1]) for phrase in phrases])
        return found

    def before(self, z: Tensor, step: int) -> Tensor:
        if step in self._thresholds:
            z = self._refined(z, step, 1 - self._thresholds[step])
        if step < self._last:
            _, z = self._moved(z, step, torch.arange(len(z), device=z.device))
        return z

    def _refined(self, z: Tensor, step: int, target: float) -> Tensor:
        """Move the rows whose loss is above ``target`` until it is not, or the tries are used."""
        loss = self._loss(z, step, torch.arange(len(z), device=z.device))
        for _ in range(self.settings.tries):
            rows = (loss > target).nonzero().flatten()
            if not len(rows):
                break
            # The loss of the moved latents is known with the next move.
            loss = loss.clone()
            loss[rows], moved = self._moved(z[rows], step, rows)
            z = z.index_copy(0, rows, moved)
        return z

    def _moved(self, z: Tensor, step: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The losses of latents of the batch's ``rows``, and the latents after one move."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            loss = self._loss(leaf, step, rows)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        return loss.detach(), z - self._size(step) * gradient

    def _size(self, step: int) -> float:
        along = step / max(1, self.schedule.steps - 1)
        return self.settings.scale * float((1 - 0.5 * along) ** 0.5)

    def _loss(self, z: Tensor, step: int, rows: Tensor) -> Tensor:
        """``[B]``: of each row its most neglected noun's loss."""
        with attention_maps(self.network) as maps:
            self.call(z, step, take(self.cond, rows))
        attention = self._aggregated(maps, z.shape[-2:])
        losses = []
        for place, row in enumerate(rows.tolist()):
            end = self.ends[row] if self.settings.up_to_end else attention.shape[-1] - 1
            words = (_SHARPEN * attention[place, :, :, 1:end]).softmax(dim=-1)
            chosen = words[:, :, [noun - 1 for noun in self.nouns[row]]].movedim(-1, 0)
            highest = _smoothed(chosen).flatten(1).amax(dim=1)
            losses.append((1 - highest).clamp(min=0).amax())
        return torch.stack(losses)

    def _aggregated(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Mean attention of the layers of one resolution, ``[B, side, side, tokens]``."""
        if not maps:
            raise UserError("the denoiser has no cross-attention: Attend-and-Excite needs one")
        height, width = size
        positions = {found.shape[1] for found in maps}
        wanted = -(-height // 4) * -(-width // 4)
        if self.settings.resolution is not None:
            wanted = self.settings.resolution**2 * width // height
        wanted = wanted if wanted in positions else max(positions)
        mean = torch.stack([found for found in maps if found.shape[1] == wanted]).mean(dim=0)
        side = round((wanted * height / width) ** 0.5)
        found: Tensor = mean.unflatten(1, (side, -1))
        return found


def _smoothed(maps: Tensor) -> Tensor:
    """Each of ``[K, h, w]`` after the authors' 3x3 kernel, which is broader than its name of a
    normal with deviation 0.5 says: ``exp(-(x / 2 sigma)^2)``."""
    axis = torch.exp(-(torch.tensor([-1.0, 0.0, 1.0], device=maps.device) ** 2))
    kernel = (axis[:, None] * axis) / (axis[:, None] * axis).sum()
    padded = F.pad(maps[:, None], (1, 1, 1, 1), mode="reflect")
    found: Tensor = F.conv2d(padded, kernel[None, None].to(maps.dtype))
    return found[:, 0]
