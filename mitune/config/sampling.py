"""How candidates are sampled and scored on the way: plain values, validated once."""

from dataclasses import dataclass

from mitune.config.choices import Convention, Scheduler, check_choice
from mitune.config.options import check_types
from mitune.core.errors import UserError

_LARGEST = (2 - 2**-23) * 2.0**127
"""Of float32, in which the guidance is used."""


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """What a candidate depends on besides model, prompt, seed and index."""

    steps: int = 50
    """Denoising steps N."""
    guidance: float = 7.5
    """Classifier-free guidance scale; 1 samples the model's own conditional distribution. The score
    never sees it."""
    scheduler: Scheduler = "ddpm"
    """Solver; ddpm is the ancestral sampler of the paper."""
    eta: float = 0.0
    """Noise of ddim, 0 (none) to 1."""
    convention: Convention = "paper"
    """Weights of the score. Of diffusion: paper is Eq. 2 over all steps; reference is the authors'
    code (no alpha_t, t > 50). Of a flow: integral or mean."""
    t_min: int | float | None = None
    """Only steps with t > t_min count for the score, in diffusion 0 to T - 2, in a flow 0 to 1;
    none is the convention's own."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.steps < 1:
            raise UserError(f"steps is {self.steps}: expected at least 1")
        if not abs(self.guidance) <= _LARGEST:
            raise UserError(f"guidance is {self.guidance}: expected a finite number, such as 7.5")
        check_choice("scheduler", self.scheduler, Scheduler)
        check_choice("convention", self.convention, Convention)
        if self.t_min is not None and float(self.t_min).is_integer():
            # Of diffusion: one number, however it was given, is one setting of a run.
            object.__setattr__(self, "t_min", int(self.t_min))
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta is {self.eta}: expected 0 to 1")
        if self.eta and self.scheduler != "ddim":
            raise UserError(
                f"eta is {self.eta} and the scheduler {self.scheduler}: eta belongs to ddim alone; "
                "leave it at 0"
            )
