"""Solvers as affine steps, derived in float64 from the scheduler that diffusers would run.

Every solver moves from z to a weighted sum of the predicted x0, the predicted eps, z and fresh
noise; both predictions are affine in z and in the model's output.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import diffusers
import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.diffusion.process import target

SOLVERS = {"ddpm": "DDPMScheduler", "ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler"}
"""Names of the solvers, and the diffusers class that each must reproduce."""

_FLOW = "FlowMatchEulerDiscreteScheduler"

_COMMON = {"clip_sample": False, "thresholding": False}
_REQUIRED: dict[str, dict[str, object]] = {
    "ddpm": {**_COMMON},
    "ddim": {**_COMMON},
    "euler": {
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "interpolation_type": "linear",
        "timestep_type": "discrete",
    },
}
_REASONS = {
    "clip_sample": "latents are not pictures in [-1, 1]",
    "thresholding": "it is not affine in the latent",
}
NO_SIGNAL = 2.0**-24
"""The largest abar that counts as no signal: a zero-terminal-SNR schedule ends in 0, or in this for
Euler, whose sigma has to stay finite."""


# What diffusers raises for configs with values of the wrong type or size.
_UNBUILDABLE = (NotImplementedError, ValueError, TypeError, IndexError, RuntimeError)


class Rows(NamedTuple):
    """N steps, each field ``[N]`` float64: abar where the model is called, and the coefficients of
    the predicted x0, the predicted eps, the latent z and fresh noise in the next latent.
    """

    abar: Tensor
    x0: Tensor
    eps: Tensor
    z: Tensor
    sigma: Tensor

    def fold(self, prediction: str) -> tuple[Tensor, Tensor]:
        """Coefficients a of z and b of the model's output, ``[N]`` float64 each."""
        signal, spread = self.abar.sqrt(), (1 - self.abar).sqrt()
        of_noise, of_clean = target(prediction, signal, spread)
        # From z = signal x0 + spread eps and output = of_noise eps + of_clean x0:
        # x0 = (of_noise z - spread output) / d, eps = (signal output - of_clean z) / d
        d = of_noise * signal - of_clean * spread
        a = self.z + (self.x0 * of_noise - self.eps * of_clean) / d
        return a, (self.eps * signal - self.x0 * spread) / d


def config_of(scheduler: Any) -> dict[str, Any]:
    """The config of a diffusers scheduler, or the given config, as a new dict.

    Raises:
        UserError: the argument is neither, or it has no noise levels of discrete timesteps.
    """
    config = getattr(scheduler, "config", scheduler)
    if not isinstance(config, Mapping):
        raise UserError(
            f"the scheduler is a {type(scheduler).__name__}: expected a diffusers scheduler or its "
            "config"
        )
    # An object's config may lack its class name, which from_config and the choice of solver need.
    own = config.get("_class_name") if config is scheduler else type(scheduler).__name__
    levels = ("beta_schedule", "beta_start", "trained_betas")
    if own not in SOLVERS.values() and all(config.get(name) is None for name in levels):
        # Otherwise from_config would silently fill in DDPM's default betas, even for a flow model.
        raise UserError(
            f"the scheduler {own or 'config'} has no noise levels: expected one of "
            f"{', '.join(levels)}"
        )
    return {**config} if own is None else {**config, "_class_name": own}


def resolve(scheduler: Any, kind: str | None) -> tuple[str, Any]:
    """The solver's name, and the scheduler that diffusers builds for it from this config.

    Args:
        scheduler: a diffusers scheduler, or its config.
        kind: one of SOLVERS; None takes the scheduler's own class.

    Raises:
        UserError: an unknown solver, or a config whose step is not an affine table.
    """
    if kind is not None and kind not in SOLVERS:
        raise UserError(f"scheduler {kind!r} is not known: choose one of {', '.join(SOLVERS)}")
    config = config_of(scheduler)
    own = config.get("_class_name")
    kind = kind or next((k for k, name in SOLVERS.items() if name == own), None)
    if kind is None:
        raise UserError(
            f"the model's own scheduler, {own or 'of no named class'}, is no affine table: choose "
            f"one of {', '.join(SOLVERS)}"
        )
    if "clip_sample" not in config and own != SOLVERS[kind]:
        # A class without the option never clips; ddpm and ddim clip by default, for pixel models.
        config["clip_sample"] = False
    try:
        native = getattr(diffusers, SOLVERS[kind]).from_config(config)
    except _UNBUILDABLE as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"diffusers cannot build {SOLVERS[kind]} from the scheduler's config ({reason}): "
            "expected the config that the model was trained with"
        ) from error
    for option, expected in _REQUIRED[kind].items():
        got = native.config.get(option) or False
        if got != expected:
            reason = f", as {_REASONS[option]}" if option in _REASONS else ""
            raise UserError(
                f"the scheduler's {option} is {got!r}: expected {expected!r}{reason}; build it "
                f"with from_config(config, {option}={expected!r})"
            )
    total, levels = native.config.num_train_timesteps, len(squared_signal(native))
    if total != levels:
        raise UserError(
            f"the scheduler's num_train_timesteps is {total}: expected {levels}, as many as it has "
            "betas"
        )
    _check_levels(native)
    return kind, native


def squared_signal(scheduler: Any) -> Tensor:
    """abar, ``[T]`` float64, of a diffusers scheduler of variance-preserving diffusion: the product
    that these classes form, in their float32."""
    alphas: Tensor = scheduler.alphas
    return alphas.cumprod(0).double()


def _check_levels(native: Any) -> None:
    """Raise UserError unless every timestep adds noise and at most the last leaves no signal."""
    betas = native.betas.double()
    # The score's weights divide by the first noise level.
    if (
        len(betas) < 2
        or not bool(((betas > 0) & (betas <= 1)).all())
        or bool((betas[:-1] == 1).any())
        or not 0 < float(squared_signal(native)[0]) < 1
    ):
        shown = f"{float(betas.min()):g} to {float(betas.max()):g}" if len(betas) else "none"
        raise UserError(
            f"the scheduler's {len(betas)} betas are {shown}: expected at least 2, above 0 and "
            "below 1 (the last may be 1); restore beta_start, beta_end and num_train_timesteps in "
            "scheduler_config.json"
        )


def is_flow(scheduler: Any) -> bool:
    """Whether it is diffusers' solver of rectified flow, or a config of that."""
    config = getattr(scheduler, "config", scheduler)
    named = config.get("_class_name") if isinstance(config, Mapping) else None
    return _FLOW in (type(scheduler).__name__, named)


_FLOW_STEPS = ("use_dynamic_shifting", "stochastic_sampling", "invert_sigmas")


def plain_flow(scheduler: Any) -> dict[str, Any]:
    """The scheduler's config with the options that ``derive_flow`` refuses turned off, for callers
    that need only the noise levels."""
    config = getattr(scheduler, "config", scheduler)
    off = dict.fromkeys(_FLOW_STEPS, False)
    # Stretching the times of a single step to a last one divides 0 by 0.
    return {**config, "_class_name": _FLOW, **off, "shift_terminal": None}


def size_shift(scheduler: Any, tokens: int) -> float | None:
    """``mu`` of a flow whose shift depends on the size of the picture, as diffusers' pipelines
    compute it from the number of the network's tokens; None if the shift does not."""
    config = {**getattr(scheduler, "config", scheduler)}
    if not config.get("use_dynamic_shifting"):
        return None
    least, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (most - least)
    return float(tokens * slope + low - slope * least)


def derive_flow(
    scheduler: Any,
    steps: int,
    sigmas: Sequence[float] | None = None,
    mu: float | None = None,
) -> tuple[Tensor, Tensor, float]:
    """Timesteps ``[N]`` as the network is given them and times ``[N + 1]`` down to 0, both float64;
    and the network's timestep at t = 1.

    Args:
        scheduler, steps, sigmas, mu: as ``Schedule.from_diffusers``.

    Raises:
        UserError: a step that is not Euler's, a spacing that depends on the picture's size, or a
            number of steps out of range.
    """
    config = {**getattr(scheduler, "config", scheduler)}
    for option in _FLOW_STEPS:
        if config.get(option) and (option != "use_dynamic_shifting" or mu is None):
            raise UserError(f"the scheduler's {option} is {config[option]!r}: expected false")
    total = int(config.get("num_train_timesteps", 1000))
    if not 1 <= steps <= total:
        raise UserError(f"steps is {steps}: expected 1 to {total}, the model's training timesteps")
    native: Any = getattr(diffusers, _FLOW).from_config(config)
    if sigmas is None:
        native.set_timesteps(steps, mu=mu)
    else:
        native.set_timesteps(sigmas=list(sigmas), mu=mu)
    if not bool(native.sigmas.isfinite().all()):
        raise UserError(
            f"the scheduler's times are no numbers with a shift of {mu}: expected a scheduler for "
            "pictures of this size; use a smaller size, or restore scheduler_config.json"
        )
    return native.timesteps.double(), native.sigmas.double(), float(total)


def derive(kind: str, native: Any, steps: int, eta: float) -> tuple[Tensor, Rows, float]:
    """Timesteps ``[N]`` float64, the rows of the steps, and the scale of the initial noise.

    Raises:
        UserError: an unknown option, or more steps than the timesteps can hold.
    """
    try:
        native.set_timesteps(steps)
    except ValueError as error:
        raise UserError(f"the scheduler cannot take {steps} steps: {error}") from error
    # With trailing spacing and some N, rounding gives diffusers one timestep too many, t = -1.
    t = torch.as_tensor(native.timesteps).double()[:steps]
    alphas = squared_signal(native)
    last = len(alphas) - 1
    if float(t[0]) > last:
        raise UserError(
            f"steps is {steps}: with the config's steps_offset {native.config.steps_offset} the "
            f"first timestep is {int(t[0])}, past the model's last, {last}; use fewer steps"
        )
    if kind == "ddpm":
        return t, _ddpm(native, alphas, t.long()), 1.0
    if kind == "ddim":
        return t, _ddim(native, alphas, t.long(), eta), 1.0
    first = native.sigmas[0].double()
    return t, _euler(native, steps), float(native.init_noise_sigma / (first.square() + 1).sqrt())


def _ddpm(native: Any, alphas: Tensor, t: Tensor) -> Rows:
    """Ancestral sampling, Ho et al. 2020, Eqs. 6-7, between the visited timesteps; the last step
    goes to abar = 1.
    """
    abar = alphas[t]
    before = torch.cat([abar[1:], abar.new_ones(1)])
    beta = 1 - abar / before
    posterior = (1 - before) / (1 - abar) * beta
    kinds = {"fixed_small": posterior, "fixed_large": beta}
    # Configs of DPM-Solver do not use this option and store null; diffusers takes fixed_small.
    variance_type = native.config.variance_type or "fixed_small"
    if variance_type not in kinds:
        raise UserError(
            f"the scheduler's variance_type is {variance_type!r}: expected one of "
            f"{', '.join(kinds)}"
        )
    # As diffusers: the step from t = 0 adds no noise.
    variance = kinds[variance_type] * (t > 0)
    x0 = before.sqrt() * beta / (1 - abar)
    z = (1 - beta).sqrt() * (1 - before) / (1 - abar)
    return Rows(abar, x0, torch.zeros_like(abar), z, variance.sqrt())


def _ddim(native: Any, alphas: Tensor, t: Tensor, eta: float) -> Rows:
    """Song et al. 2021, Eqs. 12 and 16."""
    # Not the next visited timestep: diffusers goes one stride back, which differs by rounding where
    # N does not divide T.
    back = t - len(alphas) // len(t)
    final = native.final_alpha_cumprod.double()
    abar, before = alphas[t], torch.where(back >= 0, alphas[back.clamp(min=0)], final)
    sigma = eta * ((1 - before) / (1 - abar) * (1 - abar / before)).clamp(min=0).sqrt()
    eps = (1 - before - sigma.square()).clamp(min=0).sqrt()
    return Rows(abar, before.sqrt(), eps, torch.zeros_like(abar), sigma)


def _euler(native: Any, steps: int) -> Rows:
    """Karras et al. 2022, Algorithm 1 without correction: ``x' = x0 + sigma' eps``, written for
    ``z = x / sqrt(sigma^2 + 1)``.
    """
    sigmas = native.sigmas.double()
    now = sigmas[:steps]
    then = torch.cat([now[1:], sigmas[-1:]])
    shrink = 1 / (then.square() + 1).sqrt()
    zero = torch.zeros_like(now)
    return Rows(1 / (now.square() + 1), shrink, then * shrink, zero, zero)
