"""A schedule is a table: solvers as affine steps, and the weights of the score, from a diffusers
scheduler config.

Every solver here moves by ``z' = a_i z + b_i prediction + sigma_i w``, ``w ~ N(0, I)``, with N rows
computed once on the host in float64. States are variance-preserving throughout, ``z_t =
sqrt(abar_t) z0 + sqrt(1 - abar_t) eps``: a solver with another variable of its own (Euler's ``x = z
sqrt(sigma^2 + 1)``) is written for z, so that nothing else has to know.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor

from mitune.errors import UserError

SOLVERS = {"ddpm": "DDPMScheduler", "ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler"}
"""Names of the solvers, and the diffusers class that each must agree with."""

CONVENTIONS = {"paper": -1, "reference": 50}
"""Names of the weights, and the t_min of each: "paper" is Eq. 2, where every step counts;
"reference" is the authors' code, which drops alpha_t and counts t > 50 only."""

_FORBIDDEN = {
    "clip_sample": "latents are not pictures in [-1, 1]",
    "thresholding": "it is not affine in the latent",
    "rescale_betas_zero_snr": "the first step has no signal, and the score no finite weight",
    "use_karras_sigmas": "its timesteps are not the model's",
    "use_exponential_sigmas": "its timesteps are not the model's",
    "use_beta_sigmas": "its timesteps are not the model's",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """N steps of one solver for one model.

    Attributes:
        name: "ddpm", "ddim" or "euler".
        timesteps: ``[N]`` float64, descending, as the model is given them (fractional for Euler
            with linspace).
        a, b, sigma: ``[N]`` float64, coefficients of the step, for the model's own prediction type.
        init_scale: the first latent is ``init_scale * noise``.
        alphas_cumprod: ``[T]`` float64, abar of the training schedule.
        prediction: "epsilon" or "v_prediction".
    """

    name: str
    timesteps: Tensor
    a: Tensor
    b: Tensor
    sigma: Tensor
    init_scale: float
    alphas_cumprod: Tensor
    prediction: str

    @classmethod
    def from_diffusers(
        cls, scheduler: Any, steps: int = 50, kind: str | None = None, eta: float = 0.0
    ) -> "Schedule":
        """The table of ``steps`` steps, equal to what the diffusers class does step by step.

        Args:
            scheduler: a diffusers scheduler, or its config.
            steps: N, 1 to T.
            kind: one of SOLVERS; None takes the scheduler's own class.
            eta: noise of ddim, 0 to 1.

        Raises:
            UserError: an unknown solver, a number out of range, or a config whose step is not
                affine.
        """
        config: Mapping[str, Any] = dict(getattr(scheduler, "config", scheduler))
        kind = kind or _kind(config.get("_class_name") or type(scheduler).__name__)
        if kind not in SOLVERS:
            raise UserError(f"scheduler {kind!r} is not known: choose one of {', '.join(SOLVERS)}")
        for option, reason in _FORBIDDEN.items():
            if config.get(option):
                raise UserError(
                    f"the scheduler's config sets {option}: {reason}; expected it to be false"
                )
        # clip_sample is on by default in diffusers, for pixel models; a config that does not
        # mention it is for latents.
        given = {"clip_sample": False, **{k: v for k, v in config.items() if not k.startswith("_")}}
        if kind == "euler" and given.get("timestep_type", "discrete") != "discrete":
            raise UserError("the scheduler's config sets timestep_type: expected 'discrete'")
        native = getattr(diffusers, SOLVERS[kind]).from_config(given)
        total = int(native.config.num_train_timesteps)
        if not 1 <= steps <= total:
            raise UserError(
                f"steps is {steps}: expected 1 to {total}, the model's training timesteps"
            )
        if not 0 <= eta <= 1:
            raise UserError(f"eta is {eta}: expected 0 to 1")
        prediction = native.config.prediction_type
        if prediction not in ("epsilon", "v_prediction"):
            raise UserError(
                f"the scheduler's prediction_type is {prediction!r}: expected 'epsilon' or "
                "'v_prediction'"
            )
        native.set_timesteps(steps)
        if float(native.timesteps[0]) > total - 1:
            raise UserError(
                f"steps is {steps}: with the config's steps_offset {native.config.steps_offset} "
                "the first timestep is "
                f"{int(native.timesteps[0])}, past the model's last, {total - 1}; use fewer steps"
            )
        alphas = native.alphas_cumprod.double()
        scale = 1.0
        if kind == "ddpm":
            rows = _ddpm(native, alphas)
        elif kind == "ddim":
            rows = _ddim(native, alphas, steps, eta)
        else:
            rows = _euler(native)
            first = native.sigmas[0].double()
            scale = float(native.init_noise_sigma / (first.square() + 1).sqrt())
        abar, x0, eps, z, sigma = rows
        signal, noise = abar.sqrt(), (1 - abar).sqrt()
        if prediction == "epsilon":
            # x0 = (z - noise eps) / signal
            a, b = z + x0 / signal, eps - x0 * noise / signal
        else:
            # x0 = signal z - noise v, eps = signal v + noise z
            a, b = z + x0 * signal + eps * noise, eps * signal - x0 * noise
        return cls(
            name=kind,
            timesteps=torch.as_tensor(native.timesteps).double(),
            a=a,
            b=b,
            sigma=sigma,
            init_scale=scale,
            alphas_cumprod=alphas,
            prediction=prediction,
        )

    @property
    def steps(self) -> int:
        """N."""
        return len(self.timesteps)

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return len(self.alphas_cumprod)

    def kappa(self, t: Tensor, convention: str = "paper") -> Tensor:
        """Weight of ``||delta||^2`` at timesteps ``t`` ([...] int64), float64, in nats.

        ``kappa_t = beta_t T / (2 alpha_t (1 - abar_t))`` (Wang et al., Eq. 2) with the
        per-unit-step beta_t and alpha_t of the training schedule; "reference" leaves alpha_t out.
        For v-prediction ``delta_eps = sqrt(abar_t) delta_v``, so abar_t is folded in.

        Raises:
            UserError: unknown convention.
        """
        if convention not in CONVENTIONS:
            raise UserError(
                f"convention {convention!r} is not known: choose one of {', '.join(CONVENTIONS)}"
            )
        abar = self.alphas_cumprod
        alpha = abar / torch.cat([abar.new_ones(1), abar[:-1]])
        kappa = (1 - alpha) * self.num_train_timesteps / (2 * (1 - abar))
        if convention == "paper":
            kappa = kappa / alpha
        if self.prediction == "v_prediction":
            kappa = kappa * abar
        return kappa[t]

    def least_t(self, convention: str, t_min: int | None) -> int:
        """The smallest timestep that counts: ``t_min + 1``, or without t_min the convention's own.

        Raises:
            UserError: unknown convention, or a t_min outside -1 ... T-2.
        """
        if convention not in CONVENTIONS:
            raise UserError(
                f"convention {convention!r} is not known: choose one of {', '.join(CONVENTIONS)}"
            )
        if t_min is None:
            return CONVENTIONS[convention] + 1
        if not -1 <= t_min <= self.num_train_timesteps - 2:
            raise UserError(f"t_min is {t_min}: expected 0 to {self.num_train_timesteps - 2}")
        return t_min + 1

    def weights(self, convention: str = "paper", t_min: int | None = None) -> Tensor:
        """``[N]`` float64 such that ``sum_i weights_i ||delta_i||^2`` is the mean of Eq. 2 over the
        counted steps, in nats.

        The N visited timesteps are the Monte-Carlo sample of t in Eq. 2, so the estimate is their
        mean, not the sum that Algorithm 2 prints (which is N times as much).

        Args:
            convention: "paper" or "reference".
            t_min: only steps with t > t_min count.

        Raises:
            UserError: unknown convention; or no step counts.
        """
        t = self.timesteps.round().long()
        counted = t >= self.least_t(convention, t_min)
        if not bool(counted.any()):
            raise UserError(
                f"t_min is {t_min}: no step of the schedule is above it; its first is "
                f"{int(t.max())}"
            )
        return self.kappa(t, convention) * counted / counted.sum()

    def table(self, weights: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """``[N, 4]`` float32 on ``device``, columns a, b, sigma, weight, for
        ``mitune_kernels.step``."""
        columns = torch.stack([self.a, self.b, self.sigma, weights.double()], dim=1)
        return columns.to(device=device, dtype=torch.float32)


def _kind(name: str) -> str:
    for kind, native in SOLVERS.items():
        if name == native:
            return kind
    raise UserError(
        f"the model's own scheduler, {name}, is no affine table: choose one of {', '.join(SOLVERS)}"
    )


Rows = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""abar and the coefficients of x0, eps, z and fresh noise in the next latent, each [N] float64."""


def _ddpm(native: Any, alphas: Tensor) -> Rows:
    """Ancestral sampling, Ho et al. 2020, Eqs. 6-7, between the visited timesteps; the last step
    goes to abar = 1."""
    t = native.timesteps.long()
    abar = alphas[t]
    before = torch.cat([abar[1:], abar.new_ones(1)])
    beta = 1 - abar / before
    posterior = (1 - before) / (1 - abar) * beta
    kinds = {"fixed_small": posterior, "fixed_large": beta}
    if native.config.variance_type not in kinds:
        raise UserError(
            f"the scheduler's variance_type is {native.config.variance_type!r}: expected one of "
            f"{', '.join(kinds)}"
        )
    # As diffusers: the step from t = 0 adds no noise.
    variance = kinds[native.config.variance_type] * (t > 0)
    x0 = before.sqrt() * beta / (1 - abar)
    z = (1 - beta).sqrt() * (1 - before) / (1 - abar)
    return abar, x0, torch.zeros_like(abar), z, variance.sqrt()


def _ddim(native: Any, alphas: Tensor, steps: int, eta: float) -> Rows:
    """Song et al. 2021, Eqs. 12 and 16."""
    t = native.timesteps.long()
    # Not the next visited timestep: diffusers goes one stride back, which differs by rounding where
    # N does not divide T.
    back = t - len(alphas) // steps
    final = native.final_alpha_cumprod.double()
    abar, before = alphas[t], torch.where(back >= 0, alphas[back.clamp(min=0)], final)
    sigma = eta * ((1 - before) / (1 - abar) * (1 - abar / before)).clamp(min=0).sqrt()
    eps = (1 - before - sigma.square()).clamp(min=0).sqrt()
    return abar, before.sqrt(), eps, torch.zeros_like(abar), sigma


def _euler(native: Any) -> Rows:
    """Karras et al. 2022, Algorithm 1 without correction: ``x' = x0 + sigma' eps``, and ``z = x /
    sqrt(sigma^2 + 1)``."""
    sigmas = native.sigmas.double()
    now, then = sigmas[:-1], sigmas[1:]
    shrink = 1 / (then.square() + 1).sqrt()
    zero = torch.zeros_like(now)
    return 1 / (now.square() + 1), shrink, then * shrink, zero, zero
