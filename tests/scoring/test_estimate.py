"""Estimates by re-noising against the closed form of the Gaussian world."""

import gaussian
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from mitune_kernels import normal, step

from mitune.core.errors import UserError
from mitune.diffusion.schedule import Schedule
from mitune.scoring.estimate import pointwise_mi


def estimate(count: int, **changes):
    p, z0 = gaussian.pairs(count)
    given = {"schedule": gaussian.scheduler(), "batch": 8192, "cond": p, "null": gaussian.NULL}
    denoise = changes.pop("denoise", gaussian.Denoiser())
    return pointwise_mi(denoise, z0, **(given | changes))


def test_orthogonal_is_the_mutual_information():
    mean = float(estimate(2000, estimator="orthogonal", draws=64).mean())
    assert mean == pytest.approx(gaussian.TRUE_MI, rel=0.02)


def along_ancestral_steps(denoise, schedule):
    """Algorithm 2 with the table and the kernel alone, sampling from the model itself (guidance 1);
    the engine's own test is in test_generate.py."""
    p, _ = gaussian.pairs(2000)
    table = schedule.table(schedule.weights())
    key = torch.zeros(len(p), 4, dtype=torch.int64)
    key[:, 2] = torch.arange(len(p))
    z = schedule.init_scale * normal(key, torch.zeros(len(p), dtype=torch.int64), (gaussian.D,))
    score = torch.zeros(len(p))
    for i, t in enumerate(schedule.timesteps.tolist()):
        at = torch.full((len(p),), t)
        index = torch.full((len(p),), i)
        uncond = denoise(z, at, gaussian.NULL.expand_as(p))
        z, score, _, _ = step(uncond, denoise(z, at, p), z, score, index, key, table, 1.0)
    return score


def test_orthogonal_along_fifty_ancestral_steps():
    schedule = Schedule.from_diffusers(gaussian.scheduler(), 50)
    score = along_ancestral_steps(gaussian.Denoiser(), schedule)
    assert float(score.mean()) == pytest.approx(gaussian.TRUE_MI, rel=0.03)


def test_standard_is_the_pointwise_log_ratio():
    p, z0 = gaussian.pairs(200)
    values = estimate(200, estimator="standard", draws=1000).double()
    truth = gaussian.log_ratio(p, z0)
    assert float(torch.corrcoef(torch.stack([values, truth]))[0, 1]) > 0.95
    # 200 pairs x 1000 draws leave the mean with a standard error of about 0.1 nat.
    assert float((values - truth).mean()) == pytest.approx(0, abs=0.5)


def test_orthogonal_does_not_rank_gaussian_pairs():
    """It is a constant plus noise here, as the method says: whoever ranks pairs by it must know
    that."""
    p, z0 = gaussian.pairs(200)
    values = estimate(200, estimator="orthogonal", draws=256).double()
    assert abs(float(torch.corrcoef(torch.stack([values, gaussian.log_ratio(p, z0)]))[0, 1])) < 0.3


def test_leaving_out_low_timesteps_loses_their_share():
    full = float(estimate(500, draws=128).mean())
    above = float(estimate(500, draws=128, t_min=50).mean())
    # The estimate is the mean over the counted 949 timesteps; method: counted as zero, the rest
    # gives 16.4.
    assert above * 949 / 1000 == pytest.approx(16.4, rel=0.03)
    assert full > above * 949 / 1000


def test_reference_convention_leaves_alpha_out():
    paper = float(estimate(500, draws=128).mean())
    reference = float(estimate(500, draws=128, convention="reference", t_min=-1).mean())
    # alpha_t is 0.988 to 0.99915: the ratio of the means lies between.
    assert 0.988 < reference / paper < 0.99915


@pytest.mark.parametrize("estimator", ["orthogonal", "standard"])
def test_v_prediction_scores_the_same(estimator):
    epsilon = estimate(50, estimator=estimator, draws=32)
    v = estimate(
        50,
        estimator=estimator,
        draws=32,
        denoise=gaussian.Denoiser("v_prediction"),
        schedule=gaussian.scheduler(prediction_type="v_prediction"),
    )
    torch.testing.assert_close(v, epsilon, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("estimator", ["orthogonal", "standard"])
def test_a_last_timestep_without_signal_counts_like_any_other(estimator):
    """Zero terminal SNR: at t = 999 z is noise alone, its v still tells the prompt's mean."""
    native = gaussian.scheduler(**gaussian.ZERO_SNR)
    schedule = Schedule.levels(native)
    assert float(schedule.process.squared_signal[-1]) == 0
    kappa = schedule.process.mi_weight(torch.arange(1000))
    truth = float((kappa * gaussian.velocity_gap(schedule.process.squared_signal)).mean())
    # The mean over 1000 timesteps is the integral over all noise levels except the first one's.
    assert truth == pytest.approx(gaussian.TRUE_MI, rel=0.02)
    denoise = gaussian.Denoiser("v_prediction", native)
    given = {"denoise": denoise, "schedule": native, "estimator": estimator}
    assert float(estimate(2000, draws=64, **given).mean()) == pytest.approx(truth, rel=0.02)
    # The last timestep alone: its weight is T abar_998 / 2, and its gap D V.
    last = float(estimate(2000, draws=16, t_min=998, **given).mean())
    expected = 1000 * float(schedule.process.squared_signal[998]) / 2 * gaussian.D * gaussian.V
    assert last == pytest.approx(expected, rel=0.05)


def test_sampling_from_a_latent_without_signal_scores_its_path():
    native = gaussian.scheduler(**gaussian.ZERO_SNR)
    schedule = Schedule.from_diffusers(native, 50)
    weights = schedule.weights()
    at = schedule.timesteps.long()
    gap = gaussian.velocity_gap(schedule.process.squared_signal[at])
    mean = float(along_ancestral_steps(gaussian.Denoiser("v_prediction", native), schedule).mean())
    assert mean == pytest.approx(float((weights * gap).sum()), rel=0.03)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_the_batch_does_not_matter(batch):
    torch.testing.assert_close(
        estimate(9, draws=8, batch=batch), estimate(9, draws=8), rtol=1e-5, atol=1e-5
    )


class Pairs(gaussian.Denoiser):
    """Takes latents once for both passes, and tells how many."""

    fixed_shapes = False

    def __init__(self):
        super().__init__()
        self.rows = []

    def pairs(self, z, t, cond):
        self.rows.append(len(z))
        return self(torch.cat([z, z]), torch.cat([t, t]), cond)


def test_a_denoiser_of_pairs_is_given_the_latents_once():
    pairs = Pairs()
    assert torch.equal(
        estimate(9, draws=8, batch=32, denoise=pairs), estimate(9, draws=8, batch=32)
    )
    assert pairs.rows == [32, 32, 8]


def test_where_shapes_are_compiled_for_there_is_one():
    pairs = Pairs()
    pairs.fixed_shapes = True
    found = estimate(9, draws=8, batch=32, denoise=pairs)
    torch.testing.assert_close(found, estimate(9, draws=8, batch=32), rtol=1e-6, atol=1e-6)
    assert pairs.rows == [32, 32, 32]


def test_how_the_scheduler_would_step_does_not_matter():
    """Clipping, the variance or other sigmas are about sampling; re-noising has no use for them."""
    levels = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    expected = estimate(9, draws=8)
    for schedule in (
        DDPMScheduler(**levels, clip_sample=True, variance_type="learned"),
        DPMSolverMultistepScheduler(**levels, use_karras_sigmas=True),
        {**levels, "_class_name": "PNDMScheduler", "steps_offset": 1},
        Schedule.from_diffusers(gaussian.scheduler(), 7, kind="euler"),
    ):
        assert torch.equal(estimate(9, draws=8, schedule=schedule), expected)


def test_seeds_and_repetition():
    assert torch.equal(estimate(9, draws=8), estimate(9, draws=8))
    assert not torch.equal(estimate(9, draws=8), estimate(9, draws=8, seed=1))


def test_records_any_rank_and_null_per_row():
    p, z0 = gaussian.pairs(6)
    flat = estimate(6, draws=4)
    as_images = pointwise_mi(
        gaussian.Denoiser(),
        z0.view(6, 4, 2, 2),
        {"p": p},
        {"p": gaussian.NULL.expand(6, -1)},
        gaussian.scheduler().config,
        draws=4,
    )
    torch.testing.assert_close(as_images, flat, rtol=1e-5, atol=1e-5)


def test_timesteps_are_stratified():
    seen = []

    def spy(z, t, cond):
        seen.append(t.chunk(2)[0])
        return gaussian.Denoiser()(z, t, cond)

    estimate(20, draws=10, denoise=spy)
    t = torch.cat(seen).view(20, 10)
    assert torch.equal(t // 100, torch.arange(10).expand(20, 10))
    assert len(t[:, 0].unique()) > 5


def test_bad_arguments():
    with pytest.raises(UserError, match="orthogonal, standard"):
        estimate(2, estimator="path")
    with pytest.raises(UserError, match="draws is 0"):
        estimate(2, draws=0)
    with pytest.raises(UserError, match="paper, reference"):
        estimate(2, convention="authors")
    with pytest.raises(ValueError, match="cond must have 2 rows"):
        estimate(2, cond=torch.zeros(3, gaussian.D))
    with pytest.raises(ValueError, match="null must have 1 or 2 rows"):
        estimate(2, null=torch.zeros(3, gaussian.D))
    with pytest.raises(ValueError, match="null must be a record of"):
        estimate(2, cond={"p": torch.zeros(2, gaussian.D)})
    with pytest.raises(ValueError, match=r"denoise must return \[128, 16\], got \[128, 1\]"):
        estimate(2, batch=64, denoise=lambda z, t, cond: z[:, :1])


def test_shared_noise_makes_a_row_independent_of_its_position():
    p, z0 = gaussian.pairs(5)
    together = estimate(5, draws=6, shared_noise=True)
    alone = [
        pointwise_mi(
            gaussian.Denoiser(),
            z0[i : i + 1],
            p[i : i + 1],
            gaussian.NULL,
            gaussian.scheduler(),
            draws=6,
        )
        for i in range(5)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
