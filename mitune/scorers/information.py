"""Our own metric: the point-wise mutual information of picture and prompt under a model."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from mitune.config.sets import ScoreConfig
from mitune.models.protocol import LatentModel
from mitune.scoring.score import score


@dataclass
class Information:
    """Point-wise MI in nats, by re-noising the pictures."""

    model: LatentModel
    config: ScoreConfig = field(default_factory=ScoreConfig)
    name: str = "mi"
    requires: str = "the diffusion model itself"

    def score(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """As :class:`mitune.scoring.scorer.Scorer`; pictures have the model's size."""
        return score(self.model, prompts, images, self.config).double().cpu()
