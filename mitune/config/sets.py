"""What decides a set: the candidates of a pool, how it is ranked, what is kept."""

from dataclasses import dataclass, field
from typing import Any

from mitune.config.choices import Convention, Estimator, ReNoising, Rule, check_choice
from mitune.config.options import check_positive, check_seed, check_types, with_options
from mitune.config.preset import Preset
from mitune.config.pruning import PruneConfig
from mitune.config.runtime import Runtime
from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Candidates of prompts. The defaults are the paper's; ``of`` takes a model's preset."""

    candidates: int = 50
    """Pool size M of each prompt."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """How a candidate is sampled and scored on the way."""
    seed: int = 0
    """Keys all noise: equal seeds, equal candidates."""
    scored: bool = True
    """False leaves scores and terms NaN, and at guidance 1 the unconditional pass, half of the
    work, out: for those who want the pictures alone."""
    runtime: Runtime = field(default_factory=Runtime)
    """What runs the denoiser."""

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(candidates=self.candidates)
        check_seed(self.seed)

    @classmethod
    def of(cls, preset: Preset, **options: Any) -> "GenerateConfig":
        """The preset's, with flat options in place of its own (``mitune.config.options``)."""
        return with_options(cls(sampler=preset.sampler), options)


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """A set of the best of each pool. The defaults are the paper's; ``of`` takes a model's
    preset."""

    candidates: int = 50
    """Pool size M of each prompt."""
    keep: int = 1
    """How many of each pool are kept, the best first."""
    all_latents: bool = False
    """Store the latents of all candidates, not of the kept alone: for the pictures of mitune
    report, at the price of disk."""
    select: Rule = "mi"
    """What is kept: the highest scores, or for controls random or worst."""
    estimator: Estimator = "trajectory"
    """What ranks a pool: trajectory is Eq. 2 along the sampler's own path, at no cost; so is rfmi,
    of a flow, as its authors run it, with guidance in it; the other two re-noise each finished
    latent (orthogonal: Eq. 2; standard: Kong et al. 2024)."""
    draws: int = 64
    """Re-noising draws of the estimators that re-noise."""
    rank_by: str | None = None
    """Rank pools by another metric of their pictures, NAME or NAME=WEIGHTS, such as hps, instead of
    by the estimator; mitune eval's --scorers lists the names."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """How candidates are sampled, and the weights of the score."""
    seed: int = 0
    """Keys all noise: equal seeds, equal candidates."""
    prune: PruneConfig | None = None
    """Drop candidates before their score is complete; None drops nobody. With the trajectory's
    score and selection by mi alone."""
    recheck_ties: float | None = None
    """In half precision: make candidates within so many standard deviations of a pool's scores of
    the k-th best once more in float32, such as 0.4, so that rounding decides no near tie; none
    leaves it to rounding. With the trajectory's score and selection by mi alone."""
    runtime: Runtime = field(default_factory=Runtime)
    """What runs the denoiser."""

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(candidates=self.candidates, draws=self.draws)
        check_seed(self.seed)
        check_choice("estimator", self.estimator, Estimator)
        if self.prune and not self.steered:
            raise UserError(
                f"prune is {self.prune.policy}, pools are ranked by "
                f"{self.rank_by or self.estimator}, select is {self.select}: expected estimator "
                "trajectory and select mi, whose score is known on the way"
            )

    @classmethod
    def of(cls, preset: Preset, **options: Any) -> "BuildConfig":
        """The preset's, with flat options in place of its own (``mitune.config.options``)."""
        own = cls(
            candidates=preset.candidates,
            keep=preset.keep,
            estimator=preset.estimator,
            draws=preset.draws,
            sampler=preset.sampler,
        )
        return with_options(own, options)

    @property
    def steered(self) -> bool:
        """Whether the score that selects is known on the way."""
        return self.estimator == "trajectory" and self.select == "mi" and self.rank_by is None


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Point-wise mutual information of given pictures, by re-noising."""

    estimator: ReNoising = "orthogonal"
    """orthogonal is Eq. 2 of Wang et al.; standard is Kong et al. 2024, the exact point-wise
    log-ratio on average, which can be negative."""
    draws: int = 64
    """(t, noise) pairs for each picture, t stratified; more is steadier."""
    convention: Convention | None = None
    """Weights of the score: paper (Eq. 2) or reference (the authors' code); of a flow model
    integral or mean."""
    t_min: int | float | None = None
    """Only t > t_min counts."""
    seed: int = 0
    """Keys the noise; equal seeds give every picture of the same position the same noise."""
    shared_noise: bool = False
    """The same noise for every picture, so that scores that are compared differ by less of it."""
    batch: int = 64
    """Re-noised copies in one call of the denoiser: changes speed and memory, not the result beyond
    rounding."""
    runtime: Runtime = field(default_factory=Runtime)
    """What runs the denoiser."""

    def __post_init__(self) -> None:
        check_types(self)
        check_choice("estimator", self.estimator, ReNoising)
        if self.convention is not None:
            check_choice("convention", self.convention, Convention)
        check_positive(draws=self.draws, batch=self.batch)
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class RealConfig:
    """A set of real captioned pictures, those of one caption its pool."""

    limit: int | None = None
    """Take only so many pictures, the first."""
    keep: int = 1
    """How many pictures of a caption are kept, the best first."""
    buckets: bool = False
    """Take each picture at the size, of about the model's own area, whose shape is nearest to its
    own, instead of cropping it to the model's."""
    score: ScoreConfig = field(default_factory=lambda: ScoreConfig(shared_noise=True))
    """What ranks them; one noise for all, so that a score depends on nothing but its picture and
    caption."""

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(limit=self.limit, keep=self.keep)

    @classmethod
    def of(cls, preset: Preset, **options: Any) -> "RealConfig":
        """The preset's, with flat options in place of its own (``mitune.config.options``); with
        "orthogonal" where it needs a trajectory."""
        estimator: ReNoising = "standard" if preset.estimator == "standard" else "orthogonal"
        score = ScoreConfig(
            estimator=estimator,
            draws=preset.draws,
            convention=preset.sampler.convention,
            t_min=preset.sampler.t_min,
            shared_noise=True,
        )
        return with_options(cls(score=score), options)
