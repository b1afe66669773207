"""GORS, generative model fine-tuning with reward-driven sample selection (Huang et al., NeurIPS
2023, arXiv 2307.06350, section 4): train on the model's own pictures whose reward is above a
threshold, each one's loss weighted by its reward.

It needs a reward; mutual information needs none. On an embedded world the oracle's graded score
stands for BLIP-VQA's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.models.protocol import LatentModel
from mitune.training.loop import tune

THRESHOLDS: Mapping[str, float] = {
    "color": 0.92,
    "shape": 0.85,
    "texture": 0.9,
    "complex": 0.8,
    "spatial": 0.75,
    "non-spatial": 0.4,
}
"""Those of the authors' code, by category of T2I-CompBench."""


@dataclass(frozen=True, kw_only=True)
class Rewarded:
    """Pictures of the model with their rewards.

    Attributes:
        settings: of the set that they are from; at least what names their model.
        pairs: (prompt, latent ``[C, H, W]`` float32).
        rewards: one for each pair, at least 0; higher is better.
    """

    settings: Mapping[str, Any]
    pairs: Sequence[tuple[str, Tensor]]
    rewards: Sequence[float]

    def selected(self) -> Sequence[tuple[str, Tensor]]:
        """All pairs."""
        return self.pairs


def gors(
    model: LatentModel,
    pictures: Rewarded,
    out: Path | str,
    config: TuneConfig | None = None,
    *,
    threshold: float | Callable[[str], float],
    progress: Callable[[int, int, float], None] | None = None,
) -> Path:
    """Train an adapter on the pictures whose reward is above the threshold.

    Args:
        model: without an adapter.
        pictures: and their rewards.
        out: folder of the adapter; it resumes as ``mitune.tune`` does.
        config: of the training; None takes the model's preset.
        threshold: of all prompts, or of each.
        progress: called with (steps done, steps in all, loss).

    Returns:
        ``out``.

    Raises:
        UserError: no reward is above its threshold; as ``mitune.tune``.
    """
    of = threshold if callable(threshold) else lambda prompt: threshold
    kept = [
        (pair, reward)
        for pair, reward in zip(pictures.pairs, pictures.rewards, strict=True)
        if reward > of(pair[0])
    ]
    if not kept:
        raise UserError(
            f"none of {len(pictures.pairs)} pictures has a reward above its threshold, the highest "
            f"is {max(pictures.rewards, default=0):.3g}: expected at least one; lower the threshold"
        )
    pairs, rewards = zip(*kept, strict=True)
    chosen = Rewarded(settings=pictures.settings, pairs=pairs, rewards=rewards)
    return tune(model, chosen, out, config, weights=rewards, progress=progress)
