"""Compare models on the same prompts and the same noise, with standard errors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mitune.config.runtime import Runtime
from mitune.config.sets import RealConfig
from mitune.core.errors import UserError
from mitune.evaluation.drawing import Images
from mitune.evaluation.standard_error import Estimate, estimate
from mitune.models.protocol import LatentModel
from mitune.scoring.score import score
from mitune.scoring.scorer import Scorer
from mitune.worlds.known import WORLDS


def oracle_metrics(world: str, images: Images, pictures: Tensor) -> dict[str, Tensor]:
    """The oracle's metrics for each picture of an embedded world: ``graded`` in [0, 1] and
    ``strict`` in {0, 1}, each ``[N]`` float64."""
    verdicts = WORLDS[world].judge(images.prompts, pictures)
    return {
        "graded": torch.tensor([v.graded for v in verdicts], dtype=torch.float64),
        "strict": torch.tensor([float(v.strict) for v in verdicts], dtype=torch.float64),
    }


def judged_mi(
    judge: LatentModel,
    images: Images,
    *,
    draws: int,
    seed: int = 0,
    batch: int = 64,
    runtime: Runtime | None = None,
) -> Tensor:
    """Point-wise MI of pictures under ``judge`` by re-noising, ``[N]`` float32, nats.

    Uses the estimator and the timesteps with which the judge's preset ranks pools; "orthogonal" if
    that estimator is "trajectory". ``batch`` is the number of re-noised copies in one call of the
    denoiser. The base model has to judge the pictures of all models, because scores under different
    models are not comparable.
    """
    own = RealConfig.of(judge.preset).score
    config = replace(own, draws=draws, seed=seed, batch=batch, runtime=runtime or Runtime())
    return score(judge, images.prompts, images.latents, config)


def measure(
    judge: LatentModel,
    images: Images,
    *,
    draws: int,
    seed: int = 0,
    batch: int = 64,
    runtime: Runtime | None = None,
    scorers: Sequence[Scorer] = (),
) -> dict[str, Tensor]:
    """Metrics of pictures, each ``[N]`` float64: ``mi_nats`` from ``judged_mi``; for pictures of
    an embedded world also its oracle's ``graded`` and ``strict``; and each scorer's, by name."""
    mi = judged_mi(judge, images, draws=draws, seed=seed, batch=batch, runtime=runtime)
    metrics = {"mi_nats": mi.double()}
    if judge.world is not None or scorers:
        pictures = judge.decode(images.latents)
        if judge.world is not None:
            metrics |= oracle_metrics(judge.world, images, pictures)
        metrics |= {scorer.name: scorer.score(pictures, images.prompts) for scorer in scorers}
    return metrics


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Metrics of several models on the same prompts and noise.

    Attributes:
        prompts: ``[N]``, the prompt of each picture.
        seeds: ``[N]``, the seed of the run to which each picture belongs.
        values: name of a model -> metric -> ``[N]``.
    """

    prompts: list[str]
    seeds: list[int]
    values: dict[str, dict[str, Tensor]]

    def mean(self, name: str, metric: str) -> Estimate:
        """Mean ± s.e. of one model's metric."""
        return estimate(self.values[name][metric], self.prompts, self.seeds)

    def difference(self, name: str, other: str, metric: str) -> Estimate:
        """Mean ± s.e. of ``name`` minus ``other``, paired picture by picture."""
        difference = self.values[name][metric] - self.values[other][metric]
        return estimate(difference, self.prompts, self.seeds)

    def seed_means(self, name: str, metric: str) -> list[float]:
        """The mean of each seed, in the order in which seeds first appear. Shows how much runs
        differ."""
        values, seeds = self.values[name][metric], torch.tensor(self.seeds)
        return [float(values[seeds == seed].mean()) for seed in dict.fromkeys(self.seeds)]

    def rows(self) -> list[dict[str, object]]:
        """The table as plain JSON: one row for each model and metric, with its difference to the
        first model and the mean of each seed."""
        first = next(iter(self.values))
        table: list[dict[str, object]] = []
        for name, metrics in self.values.items():
            for metric in metrics:
                mean, gain = self.mean(name, metric), self.difference(name, first, metric)
                row: dict[str, object] = {"model": name, "metric": metric}
                row |= {"mean": mean.mean, "standard_error": mean.standard_error}
                row |= {"gain": gain.mean, "gain_standard_error": gain.standard_error}
                row["seed_means"] = self.seed_means(name, metric)
                table.append(row)
        return table

    def __str__(self) -> str:
        first = next(iter(self.values))
        lines = [f"{'model':<16} {'metric':<10} {'mean ± s.e.':<18} gain over {first} ± s.e."]
        for name, metrics in self.values.items():
            for metric in metrics:
                gain = "" if name == first else f"{self.difference(name, first, metric)}"
                lines.append(f"{name:<16} {metric:<10} {self.mean(name, metric)!s:<18} {gain}")
        return "\n".join(lines)


def pooled(comparisons: Sequence[Comparison]) -> Comparison:
    """Combine several seeds of the same comparison into one. The pictures of a prompt in all seeds
    form one cluster.

    Raises:
        UserError: if the comparisons are of different models.
    """
    names = [list(c.values) for c in comparisons]
    if any(n != names[0] for n in names):
        raise UserError(f"comparisons of different models cannot be pooled: {names}")
    return Comparison(
        prompts=[p for c in comparisons for p in c.prompts],
        seeds=[s for c in comparisons for s in c.seeds],
        values={
            name: {
                metric: torch.cat([c.values[name][metric] for c in comparisons])
                for metric in comparisons[0].values[name]
            }
            for name in names[0]
        },
    )
