"""Tables against diffusers' own step(), at every step."""

import gaussian
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, PNDMScheduler

from mitune.errors import UserError
from mitune.schedule import Schedule

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PREDICTIONS = ["epsilon", "v_prediction"]
SPACINGS = ["leading", "trailing", "linspace"]
STEPS = [1, 7, 50]


def worst(table, native, step):
    """Largest relative error of the table's step against ``step(i, t, z, prediction, noise)`` of
    diffusers."""
    errors = []
    for i, t in enumerate(native.timesteps):
        generator = torch.Generator().manual_seed(i)
        z, prediction, noise = torch.randn(3, 1, 64, generator=generator, dtype=torch.float64)
        expected = step(i, t, z, prediction, noise)
        got = table.a[i] * z + table.b[i] * prediction + table.sigma[i] * noise
        errors.append(float((got - expected).norm() / expected.norm()))
    assert len(errors) == table.steps
    return max(errors)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddpm(prediction, spacing, variance, offset, steps, monkeypatch):
    native = DDPMScheduler(
        **SD,
        prediction_type=prediction,
        timestep_spacing=spacing,
        steps_offset=offset,
        variance_type=variance,
        clip_sample=False,
    )
    native.set_timesteps(steps)

    def step(i, t, z, prediction, noise):
        # The noise that diffusers draws is ours to give.
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: noise
        )
        return native.step(prediction, t, z).prev_sample

    assert worst(Schedule.from_diffusers(native, steps), native, step) < 1e-5


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim(prediction, spacing, to_one, eta, steps):
    native = DDIMScheduler(
        **SD,
        prediction_type=prediction,
        timestep_spacing=spacing,
        set_alpha_to_one=to_one,
        steps_offset=1,
        clip_sample=False,
    )
    native.set_timesteps(steps)

    def step(i, t, z, prediction, noise):
        return native.step(prediction, t, z, eta=eta, variance_noise=noise).prev_sample

    assert worst(Schedule.from_diffusers(native, steps, eta=eta), native, step) < 1e-5


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_euler(prediction, spacing, steps):
    native = EulerDiscreteScheduler(**SD, prediction_type=prediction, timestep_spacing=spacing)
    native.set_timesteps(steps)
    scale = (native.sigmas.double().square() + 1).sqrt()

    def step(i, t, z, prediction, noise):
        native.scale_model_input(z, t)
        return native.step(prediction, t, z * scale[i]).prev_sample / scale[i + 1]

    table = Schedule.from_diffusers(native, steps)
    assert worst(table, native, step) < 1e-5
    assert table.init_scale == pytest.approx(float(native.init_noise_sigma / scale[0]), rel=1e-6)


def test_a_thousand_steps(monkeypatch):
    native = DDPMScheduler(**SD, clip_sample=False)
    # At stride 1 diffusers' float32 beta = 1 - abar/abar' has itself only 1e-5: give it the same
    # numbers in float64.
    native.alphas_cumprod, native.one = native.alphas_cumprod.double(), native.one.double()
    native.set_timesteps(1000)

    def step(i, t, z, prediction, noise):
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: noise
        )
        return native.step(prediction, t, z).prev_sample

    assert worst(Schedule.from_diffusers(native, 1000), native, step) < 1e-5


def test_published_sd_2_1_base_config():
    """Its own scheduler, PNDM, is no affine table; its noise levels serve any solver that is."""
    config = {**SD, "_class_name": "PNDMScheduler", "clip_sample": False, "skip_prk_steps": True}
    config |= {"set_alpha_to_one": False, "steps_offset": 1, "trained_betas": None}
    with pytest.raises(UserError, match="choose one of ddpm, ddim, euler"):
        Schedule.from_diffusers(config)
    for scheduler in (config, PNDMScheduler.from_config(config)):
        table = Schedule.from_diffusers(scheduler, 50, kind="ddpm")
        assert table.timesteps[0] == 981
        assert table.timesteps[-1] == 1
        assert table.sigma[-1] < 1e-6


def test_kappa_is_the_published_one():
    table = Schedule.from_diffusers(gaussian.scheduler(), 50)
    at = torch.tensor([981, 501, 101, 61, 41, 1])
    expected = torch.tensor([5.9, 3.3, 6.5, 9.6, 13.0, 251.0], dtype=torch.float64)
    # Published to two digits, 13 and 251 to the unit.
    half_unit = torch.tensor([0.05, 0.05, 0.05, 0.05, 0.5, 0.5])
    assert bool(((table.kappa(at, "reference") - expected).abs() <= half_unit).all())
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    abar = (1 - betas).cumprod(0)
    exact = betas * 1000 / (2 * (1 - betas) * (1 - abar))
    torch.testing.assert_close(table.kappa(at), exact[at], rtol=1e-3, atol=0)


def test_v_prediction_folds_abar():
    epsilon = Schedule.from_diffusers(gaussian.scheduler(), 50)
    v = Schedule.from_diffusers(gaussian.scheduler(prediction_type="v_prediction"), 50)
    t = torch.arange(1000)
    torch.testing.assert_close(v.kappa(t), epsilon.kappa(t) * epsilon.alphas_cumprod)


def test_weights_average_over_the_counted_steps():
    table = Schedule.from_diffusers(gaussian.scheduler(steps_offset=1), 50)
    t = table.timesteps.long()
    torch.testing.assert_close(table.weights(), table.kappa(t) / 50)
    # The authors' t > 50 counts 47 of the 50 steps.
    weights = table.weights("reference")
    assert int((weights > 0).sum()) == 47
    torch.testing.assert_close(weights[:47], table.kappa(t, "reference")[:47] / 47)
    torch.testing.assert_close(
        table.weights("reference", t_min=-1), table.kappa(t, "reference") / 50
    )
    with pytest.raises(UserError, match="no step"):
        table.weights(t_min=990)


def test_trained_betas_and_the_device_table():
    betas = torch.linspace(0.001, 0.02, 100).tolist()
    table = Schedule.from_diffusers(
        {"_class_name": "DDPMScheduler", "trained_betas": betas, "num_train_timesteps": 100}, 10
    )
    assert table.num_train_timesteps == 100
    rows = table.table(table.weights())
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows[:, 2].double(), table.sigma, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {"kind": "heun"}, "choose one of ddpm, ddim, euler"),
        ({}, {"steps": 1001}, "expected 1 to 1000"),
        ({}, {"steps": 0}, "expected 1 to 1000"),
        ({"steps_offset": 1}, {"steps": 1000}, "use fewer steps"),
        ({}, {"eta": 2.0, "kind": "ddim"}, "expected 0 to 1"),
        ({"clip_sample": True}, {}, "clip_sample"),
        ({"thresholding": True}, {}, "thresholding"),
        ({"rescale_betas_zero_snr": True}, {}, "rescale_betas_zero_snr"),
        ({"variance_type": "learned"}, {}, "fixed_small, fixed_large"),
        ({"prediction_type": "sample"}, {}, "expected 'epsilon' or 'v_prediction'"),
    ],
)
def test_what_cannot_be_a_table(changes, arguments, message):
    with pytest.raises(UserError, match=message):
        Schedule.from_diffusers(gaussian.scheduler(**changes), **arguments)
