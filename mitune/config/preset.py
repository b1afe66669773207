"""The numbers with which a model is used if no others are given: the paper's, except for models
that have their own."""

from dataclasses import dataclass, field, replace

from mitune.config.choices import Estimator
from mitune.config.sampling import SamplerConfig
from mitune.config.training import TuneConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Defaults of one model.

    Attributes:
        candidates: pool size M of each prompt.
        keep: how many of the pool are kept.
        estimator: what the pool is ranked by.
        draws: re-noising draws of the two latter.
        sampler: how the fine-tuning set's candidates are sampled.
        use_guidance: guidance at which base and tuned model are used and compared.
        tuning: hyper-parameters of the adapter.
    """

    candidates: int = 50
    keep: int = 1
    estimator: Estimator = "trajectory"
    draws: int = 64
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    use_guidance: float = 7.5
    tuning: TuneConfig = field(default_factory=TuneConfig)


PAPER = Preset()
"""Wang et al., section 4 and Table 5: M = 50, k = 1, 50 ancestral steps, guidance 7.5, DoRA rank
32."""


def flow_preset(steps: int, guidance: float) -> Preset:
    """The paper's pool and adapter for a rectified flow: Euler's method, the exact integral, and
    training over all times.

    Args:
        steps, guidance: those with which the family is used.
    """
    return replace(
        PAPER,
        sampler=SamplerConfig(
            steps=steps, guidance=guidance, scheduler="euler", convention="integral"
        ),
        use_guidance=guidance,
        tuning=replace(PAPER.tuning, t_range=(0, 1000)),
    )
