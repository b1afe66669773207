"""How far metrics agree with people (Wang et al., section 3.1)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mitune.evaluation.correlation import kendall
from mitune.evaluation.standard_error import Estimate, over
from mitune.survey.pool import Pool
from mitune.survey.store import Survey


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Kendall's tau-b between a metric's scores of a prompt's pictures and the shares of people who
    chose them.

    Attributes:
        name: of the metric.
        tau: mean ± s.e. over prompts.
        prompts: how many prompts count: those whose pictures neither the metric nor people rate all
            the same.
    """

    name: str
    tau: Estimate
    prompts: int


def with_metrics(surveys: Sequence[Survey], pool: Pool) -> list[Metric]:
    """The agreement of every metric that the pool has scores of with its finished surveys."""
    shown: Counter[tuple[str, str, str]] = Counter()
    chosen: Counter[tuple[str, str, str]] = Counter()
    for survey in surveys:
        for number, asked in enumerate(survey.rounds if survey.finished else ()):
            for option, image in asked.shown:
                key = (asked.category, asked.prompt, image)
                shown[key] += 1
                chosen[key] += option in survey.answers[number]
    taus: dict[str, list[float]] = {}
    for item in pool.items:
        for metric, values in item.scores.items():
            seen = {
                image: (item.category, item.prompt, image)
                for image in values
                if shown[item.category, item.prompt, image]
            }
            if len(seen) > 1:
                scores = [values[image] for image in seen]
                people = [chosen[key] / shown[key] for key in seen.values()]
                tau = kendall(torch.tensor(scores).double(), torch.tensor(people).double())
                taus.setdefault(metric, []).append(tau)
    known = {metric: [tau for tau in found if tau == tau] for metric, found in taus.items()}
    return [
        Metric(name=metric, tau=over(found), prompts=len(found))
        for metric, found in known.items()
        if found
    ]
