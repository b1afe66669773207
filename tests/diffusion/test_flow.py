"""Rectified flow in the Gaussian world: the process, its estimates, its sampler."""

import gaussian
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from mitune_kernels import step

from mitune.core.errors import UserError
from mitune.diffusion.process import target
from mitune.diffusion.rectified_flow import RectifiedFlow
from mitune.diffusion.schedule import Schedule
from mitune.diffusion.variance_preserving import VariancePreserving
from mitune.scoring.estimate import pointwise_mi

FLOW = RectifiedFlow()
PAIRS = 1000


def schedule(steps: int = 50, shift: float = 1.0, **changes: object) -> Schedule:
    native = FlowMatchEulerDiscreteScheduler(shift=shift, **changes)
    return Schedule.from_diffusers(native, steps)


def estimate(count: int = PAIRS, **changes: object) -> torch.Tensor:
    p, z0 = gaussian.pairs(count)
    given = {"draws": 50, "batch": 8192} | changes
    return pointwise_mi(gaussian.FlowDenoiser(), z0, p, gaussian.NULL, schedule(), **given)


@pytest.mark.parametrize(
    ("process", "t"),
    [
        (FLOW, torch.linspace(0.05, 0.95, 19, dtype=torch.float64)),
        *(
            (
                VariancePreserving(
                    squared_signal=gaussian.scheduler().alphas_cumprod.double(), prediction=kind
                ),
                torch.arange(50, 1000, 50),
            )
            for kind in ("epsilon", "v_prediction")
        ),
    ],
    ids=["flow", "epsilon", "v"],
)
def test_the_weight_is_half_the_slope_of_the_snr_times_the_predictions_scale(process, t):
    """By the process's own levels and target alone; discrete steps take the slope as it was before
    the step, 1 part in 100 from the middle's."""

    def snr(at):
        signal, spread = process.levels(at)
        return (signal / spread).square()

    signal, spread = process.levels(t)
    of_noise, of_clean = target(process.prediction, signal, spread)
    # What a difference of 1 in the prediction is in x0, at equal z.
    scale = spread / (of_noise * signal - of_clean * spread)
    if process is FLOW:
        h = 1e-6
        slope, tolerance = (snr(t - h) - snr(t + h)) / (2 * h), 1e-6
    else:
        total = process.num_train_timesteps
        slope, tolerance = (snr(t - 1) - snr(t + 1)) / 2 * total, 0.02
    weight = process.mi_weight(t, next(iter(process.conventions)))
    torch.testing.assert_close(weight, slope / 2 * scale.square(), rtol=tolerance, atol=0)


def test_orthogonal_is_the_mutual_information():
    assert float(estimate(estimator="orthogonal").mean()) == pytest.approx(
        gaussian.TRUE_MI, rel=0.02
    )


def test_standard_is_the_pointwise_log_ratio():
    found = estimate(estimator="standard", draws=1000, batch=65536).double()
    true = gaussian.log_ratio(*gaussian.pairs(PAIRS))
    assert float(found.mean()) == pytest.approx(float(true.mean()), rel=0.02)
    assert float(torch.corrcoef(torch.stack([found, true]))[0, 1]) > 0.95


def test_what_is_left_out_below_t_min_is_missing():
    """method.md: with t > 0.05 alone counted as the whole range 19.03 of 19.18 nats; here the range
    is the counted one, so its mean is that of fewer nats over 0.95."""
    t = torch.linspace(0.05, 1, 200_001, dtype=torch.float64)[1:-1]
    signal, spread = FLOW.levels(t)
    gap = gaussian.D * (
        (gaussian.S2 + gaussian.V) / (signal**2 * (gaussian.S2 + gaussian.V) + spread**2)
        - gaussian.S2 / (signal**2 * gaussian.S2 + spread**2)
    )
    expected = float((FLOW.mi_weight(t) * gap).mean())
    assert float(estimate(t_min=0.05).mean()) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_along_eulers_path_the_integral_is_the_mutual_information(shift):
    """Whatever the spacing, where the plain mean is another number with SD3's."""
    table = schedule(200, shift)
    p, _ = gaussian.pairs(PAIRS)
    terms = path(table, p)
    score = float((table.weights("integral")[:, None] * terms).sum(0).mean())
    assert score == pytest.approx(gaussian.TRUE_MI, rel=0.03)
    mean = float((table.weights("mean")[:, None] * terms).sum(0).mean())
    assert (abs(mean / gaussian.TRUE_MI - 1) > 0.2) == (shift == 3.0)


def test_training_draws_times_evenly_over_the_networks_timesteps_and_never_0():
    words = torch.tensor([0, 2**31, 2**32 - 1])
    found = FLOW.training_t(words, (500, 1000))
    torch.testing.assert_close(found, torch.tensor([0.5, 0.75, 1.0], dtype=torch.float64))
    least = float(FLOW.training_t(words[:1], (0, 1000)))
    assert 0 < least < 1e-9
    assert FLOW.model_t(found).tolist() == pytest.approx([500, 750, 1000])


def path(table: Schedule, p: torch.Tensor) -> torch.Tensor:
    """Squared differences ``[steps, N]`` along samples of the conditional model."""
    denoise = gaussian.FlowDenoiser()
    z = torch.randn(len(p), gaussian.D, generator=torch.Generator().manual_seed(1))
    terms = []
    for t, a, b in zip(table.timesteps, table.a, table.b, strict=True):
        at = t.float().expand(len(p))
        cond = denoise(z, at, p)
        terms.append((cond - denoise(z, at, gaussian.NULL.expand_as(p))).double().square().sum(1))
        z = (a * z + b * cond).float()
    return torch.stack(terms)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_table_steps_as_diffusers_does(shift):
    """By the fused operation, with guidance."""
    native = FlowMatchEulerDiscreteScheduler(shift=shift)
    native.set_timesteps(7)
    table = Schedule.from_diffusers(native, 7)
    rows = table.table(table.weights("integral"))
    assert table.timesteps.tolist() == pytest.approx(native.timesteps.tolist())
    p, z = gaussian.pairs(5)
    z, denoise = z.contiguous(), gaussian.FlowDenoiser()
    expected, score = z.clone(), torch.zeros(5)
    for number, t in enumerate(native.timesteps):
        at = t.expand(5)
        uncond, cond = denoise(z, at, gaussian.NULL.expand_as(p)), denoise(z, at, p)
        guided = uncond + 3.0 * (cond - uncond)
        expected = native.step(guided, t, expected, return_dict=False)[0]
        key = torch.zeros(5, 4, dtype=torch.int64)
        z, score, *_ = step(uncond, cond, z, score, torch.full((5,), number), key, rows, 3.0)
        torch.testing.assert_close(z, expected, rtol=1e-5, atol=1e-5)
    assert bool((score > 0).all())


def test_the_levels_need_no_steps_of_eulers():
    """Some models space them by the picture's size, which re-noising has no use for."""
    dynamic = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    p, z0 = gaussian.pairs(9)
    given = (gaussian.FlowDenoiser(), z0, p, gaussian.NULL)
    assert torch.equal(
        pointwise_mi(*given, dynamic, draws=8), pointwise_mi(*given, schedule(), draws=8)
    )


def test_a_training_target_is_diffusers_own():
    native = FlowMatchEulerDiscreteScheduler()
    x0, eps = torch.randn(4, 16), torch.randn(4, 16)
    at = native.timesteps[[10, 300, 600, 900]]
    t = at.double() / 1000
    signal, spread = (level.float().view(-1, 1) for level in FLOW.levels(t))
    torch.testing.assert_close(signal * x0 + spread * eps, native.scale_noise(x0, at, eps))
    assert torch.equal(FLOW.model_t(t), at)
    of_noise, of_clean = target(FLOW.prediction, *FLOW.levels(t))
    assert (of_noise.tolist(), of_clean.tolist()) == ([1.0] * 4, [-1.0] * 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedule(0), "steps is 0: expected 1 to 1000"),
        (lambda: schedule(use_dynamic_shifting=True), "use_dynamic_shifting is True: expected"),
        (lambda: schedule(stochastic_sampling=True), "stochastic_sampling is True: expected false"),
        (
            lambda: Schedule.from_diffusers(FlowMatchEulerDiscreteScheduler(), 5, kind="ddim"),
            "scheduler 'ddim' does not solve a flow: choose euler",
        ),
        (lambda: schedule().weights("paper"), "choose one of integral, mean"),
        (lambda: schedule().weights(t_min=1.0), "t_min is 1.0: expected 0 to below 1"),
        (lambda: FLOW.loss_weight(torch.ones(1), 5.0), "snr_gamma is 5.0: expected none"),
        (lambda: target("sample", torch.ones(1), torch.ones(1)), "'sample' is not known"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(UserError, match=message):
        call()
