"""A world in which everything is known: p ~ N(0, v I), z0 | p ~ N(p, s2 I), both denoisers
analytic."""

import math
from collections.abc import Mapping, Sequence

import torch
from diffusers import DDPMScheduler
from torch import Tensor

D, S2, V = 16, 0.1, 1.0
TRUE_MI = D / 2 * math.log(1 + V / S2)
"""19.183 nats."""


def scheduler(**changes: object) -> DDPMScheduler:
    """Stable Diffusion's noise schedule."""
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDPMScheduler.from_config(config | {"clip_sample": False} | changes)


def pairs(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(p, z0), each [count, 16] float32."""
    generator = torch.Generator().manual_seed(seed)
    p = math.sqrt(V) * torch.randn(count, D, generator=generator)
    return p, p + math.sqrt(S2) * torch.randn(count, D, generator=generator)


def log_ratio(p: Tensor, z0: Tensor) -> Tensor:
    """log p(z0 | p) / p(z0) of each pair, [N] float64."""
    p, z0 = p.double(), z0.double()
    given = -(z0 - p).square().sum(1) / (2 * S2) - D / 2 * math.log(S2)
    marginal = -z0.square().sum(1) / (2 * (S2 + V)) - D / 2 * math.log(S2 + V)
    return given - marginal


ZERO_SNR = {
    "rescale_betas_zero_snr": True,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
}
"""What makes ``scheduler`` one whose last latent is noise alone, as Stable Diffusion 2.1-v's is
often used."""


def velocity_gap(abar: Tensor) -> Tensor:
    """E ||v_c - v_u||^2 over (z0, p) and noise at each abar, float64: the difference of the two
    posteriors' errors, by orthogonality."""

    def error(variance: float) -> Tensor:
        return variance / (abar * variance + 1 - abar)

    return D * (error(S2 + V) - error(S2))


def posterior(z: Tensor, signal: Tensor, spread: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
    """Means of x0 and eps given z = signal x0 + spread eps ([N, 16] and columns, float64). A row of
    NaN in the conditioning stands for the empty prompt."""
    empty = cond.isnan()
    mean = torch.where(empty, 0.0, cond.double())
    variance = torch.where(empty, S2 + V, S2)
    innovation = (z - signal * mean) / (signal.square() * variance + spread.square())
    return mean + signal * variance * innovation, spread * innovation


class FlowDenoiser:
    """The exact posterior mean of the velocity eps - x0 in rectified flow, at timestep 1000 t."""

    def __call__(self, z: Tensor, t: Tensor, cond: Tensor | Mapping[str, Tensor]) -> Tensor:
        p = cond if isinstance(cond, Tensor) else cond["p"]
        t = t.double().view(-1, 1) / 1000
        x0, eps = posterior(z.flatten(1).double(), 1 - t, t, p)
        return (eps - x0).float().view(z.shape)


class Denoiser:
    """The exact posterior mean of the noise, or of v."""

    def __init__(self, prediction: str = "epsilon", native: DDPMScheduler | None = None) -> None:
        self.prediction = prediction
        self.abar = (native or scheduler()).alphas_cumprod.double()

    def __call__(self, z: Tensor, t: Tensor, cond: Tensor | Mapping[str, Tensor]) -> Tensor:
        p = cond if isinstance(cond, Tensor) else cond["p"]
        a = self.abar[t.long()].view(-1, 1)
        x0, predicted = posterior(z.flatten(1).double(), a.sqrt(), (1 - a).sqrt(), p)
        if self.prediction == "v_prediction":
            predicted = a.sqrt() * predicted - (1 - a).sqrt() * x0
        return predicted.float().view(z.shape)


NULL = torch.full((1, D), math.nan)


def encode(prompts: Sequence[str]) -> dict[str, Tensor]:
    """p of prompt "n" is the n-th pair's."""
    every, _ = pairs(2048)
    return {"p": torch.stack([every[int(prompt)] for prompt in prompts])}
