"""Sampling that is guided by mutual information (Wang et al., section 5, left there as an idea):
before a step the latents move towards more information about the phrase that has the least.

The map of a phrase is kappa_t ||f_c - f_r||^2 at each position, where f_r is the prediction for the
prompt without that phrase. As in Attend-and-Excite, which looks at attention instead, a phrase
counts by its strongest position, and the weakest phrase gives the gradient.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mitune.core.phrases import without_phrases
from mitune.diffusion.schedule import Schedule
from mitune.methods.sampling.guided import Guided
from mitune.models.protocol import LatentModel, concat


class InformationGuidance(Guided):
    """Guidance whose latents move towards the phrase about which they have the least information;
    arguments as of ``Guided``, and:

    Args:
        strength: length of a move, as a share of the latents' own; 0 does not move.
        until: share of the steps, from the first, before which latents move.
        rests: a prompt without each of its phrases.
    """

    def __init__(
        self,
        model: LatentModel,
        prompts: Sequence[str],
        schedule: Schedule,
        guidance: float,
        strength: float = 0.01,
        until: float = 0.5,
        rests: Callable[[str], list[str]] = without_phrases,
    ) -> None:
        super().__init__(model, prompts, schedule, guidance)
        self.strength, self._last = strength, round(until * schedule.steps)
        lacking = [rests(text) for text in self.prompts]
        self._rests = [self._rows(model.encode_prompts(texts)) for texts in lacking]
        process = schedule.process
        convention = next(iter(process.conventions))
        times = schedule.timesteps.round().long().clamp(min=0)
        self._kappa = process.mi_weight(times, convention).float()

    def before(self, z: Tensor, step: int) -> Tensor:
        if step >= self._last or not self.strength:
            return z
        return torch.cat([self._moved(z[row : row + 1], row, step) for row in range(len(z))])

    def _moved(self, z: Tensor, row: int, step: int) -> Tensor:
        rests = self._rests[row]
        count = len(next(iter(rests.values())))
        whole = {name: tensor[row : row + 1] for name, tensor in self.cond.items()}
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            made = self.call(leaf.expand(count + 1, *z.shape[1:]), step, concat([whole, rests]))
            apart = (made[:1] - made[1:]).square().sum(dim=1)
            strongest = float(self._kappa[step]) * apart.flatten(1).amax(dim=1)
            gradient: Tensor = torch.autograd.grad(strongest.amin(), leaf)[0]
        length = gradient.norm().clamp(min=1e-12)
        moved: Tensor = z + self.strength * z.norm() * gradient / length
        return moved
