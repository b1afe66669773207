"""Tables against diffusers' own step(), at every step."""

import math

import gaussian
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from mitune.core.errors import UserError
from mitune.diffusion.schedule import Schedule

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PREDICTIONS = ["epsilon", "v_prediction"]
SPACINGS = ["leading", "trailing", "linspace"]
STEPS = [1, 7, 50]


def worst(table, native, step):
    """Largest relative error of the table's step against ``step(i, t, z, prediction, noise)`` of
    diffusers, the noise being what a generator of seed i draws first."""
    errors = []
    for i, t in enumerate(native.timesteps):
        generator = torch.Generator().manual_seed(1000 + i)
        z, prediction = torch.randn(2, 1, 64, generator=generator, dtype=torch.float64)
        noise = torch.randn(1, 64, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        expected = step(i, t, z, prediction, noise)
        got = table.a[i] * z + table.b[i] * prediction + table.sigma[i] * noise
        errors.append(float((got - expected).norm() / expected.norm()))
    assert len(errors) == table.steps
    return max(errors)


def ddpm_step(native):
    def step(i, t, z, prediction, noise):
        generator = torch.Generator().manual_seed(i)
        return native.step(prediction, t, z, generator=generator).prev_sample

    return step


def ddim_step(native, eta):
    def step(i, t, z, prediction, noise):
        return native.step(prediction, t, z, eta=eta, variance_noise=noise).prev_sample

    return step


def euler_step(native):
    scale = (native.sigmas.double().square() + 1).sqrt()

    def step(i, t, z, prediction, noise):
        native.scale_model_input(z, t)
        return native.step(prediction, t, z * scale[i]).prev_sample / scale[i + 1]

    return step


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddpm(prediction, spacing, variance, offset, steps):
    native = DDPMScheduler(
        **SD,
        prediction_type=prediction,
        timestep_spacing=spacing,
        steps_offset=offset,
        variance_type=variance,
        clip_sample=False,
    )
    native.set_timesteps(steps)
    assert worst(Schedule.from_diffusers(native, steps), native, ddpm_step(native)) < 1e-5


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim(prediction, spacing, to_one, offset, eta, steps):
    native = DDIMScheduler(
        **SD,
        prediction_type=prediction,
        timestep_spacing=spacing,
        set_alpha_to_one=to_one,
        steps_offset=offset,
        clip_sample=False,
    )
    native.set_timesteps(steps)
    table = Schedule.from_diffusers(native, steps, eta=eta)
    assert worst(table, native, ddim_step(native, eta)) < 1e-5


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_euler(prediction, spacing, offset, final, steps):
    native = EulerDiscreteScheduler(
        **SD,
        prediction_type=prediction,
        timestep_spacing=spacing,
        steps_offset=offset,
        final_sigmas_type=final,
    )
    native.set_timesteps(steps)
    table = Schedule.from_diffusers(native, steps)
    assert worst(table, native, euler_step(native)) < 1e-5
    # The pipeline starts from init_noise_sigma * noise in Euler's own variable.
    scale = float((native.sigmas[0].double().square() + 1).sqrt())
    assert table.init_scale * scale == pytest.approx(float(native.init_noise_sigma), rel=1e-6)


ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", ["ddpm", "ddim", "euler"])
def test_zero_terminal_snr(kind, spacing, steps):
    """The step from a latent without signal too, and its weight, are finite."""
    given = {**SD, **ZERO_SNR, "timestep_spacing": spacing}
    if kind == "euler":
        native = EulerDiscreteScheduler(**given)
    else:
        native = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}[kind](**given, clip_sample=False)
    native.set_timesteps(steps)
    step = {"ddpm": ddpm_step(native), "ddim": ddim_step(native, 0.5)}.get(kind)
    table = Schedule.from_diffusers(native, steps, eta=0.5)
    assert worst(table, native, step or euler_step(native)) < 1e-5
    for convention in ("paper", "reference"):
        weights = table.weights(convention, t_min=-1)
        assert bool(weights.isfinite().all())
    if spacing == "trailing":
        assert table.timesteps[0] == 999
        assert table.init_scale == pytest.approx(1, rel=1e-6)


def test_the_weight_of_a_timestep_without_signal():
    """v: beta T abar_(t-1) / (2 (1 - abar)), which is T abar_(T-2) / 2 at the last, where beta is 1
    and abar 0; without alpha_t, in the authors' convention, nothing is left of it."""
    native = gaussian.scheduler(**gaussian.ZERO_SNR)
    table = Schedule.from_diffusers(native, 50)
    kappa, last = table.process.mi_weight(torch.arange(1000)), torch.tensor(999)
    assert float(kappa[999]) == pytest.approx(500 * float(native.alphas_cumprod[998]), rel=1e-6)
    assert float(table.process.mi_weight(last, "reference")) == 0
    # Before it, the weight is the one for eps times abar.
    abar = table.process.squared_signal
    beta = 1 - abar[1:999] / abar[:998]
    exact = beta * 1000 * abar[:998] / (2 * (1 - abar[1:999]))
    torch.testing.assert_close(kappa[1:999], exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["ddpm", "ddim", "euler"])
def test_noise_predicted_of_noise_alone_is_refused(kind):
    config = {**SD, "rescale_betas_zero_snr": True, "clip_sample": False}
    with pytest.raises(UserError, match=r"prediction_type is 'epsilon': expected 'v_prediction'"):
        Schedule.from_diffusers(config, kind=kind)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("kind", ["ddpm", "ddim", "euler"])
def test_a_thousand_steps(kind, prediction):
    given = {**SD, "prediction_type": prediction}
    if kind == "ddpm":
        native = DDPMScheduler(**given, clip_sample=False)
        # At stride 1 diffusers' float32 beta = 1 - abar/abar' has itself only 1e-5: give it the
        # same numbers in float64.
        native.alphas_cumprod, native.one = native.alphas_cumprod.double(), native.one.double()
        step = ddpm_step(native)
    elif kind == "ddim":
        native = DDIMScheduler(**given, clip_sample=False)
        step = ddim_step(native, 0.5)
    else:
        native = EulerDiscreteScheduler(**given)
    native.set_timesteps(1000)
    if kind == "euler":
        step = euler_step(native)
    assert worst(Schedule.from_diffusers(native, 1000, eta=0.5), native, step) < 1e-5


@pytest.mark.parametrize("kind", ["ddpm", "ddim", "euler"])
def test_trailing_never_visits_a_timestep_before_the_first(kind):
    """For 61 steps, rounding gives diffusers 62 timesteps, the last of them -1."""
    config = {**SD, "clip_sample": False, "timestep_spacing": "trailing"}
    table = Schedule.from_diffusers(config, 61, kind=kind)
    for column in (table.timesteps, table.a, table.b, table.sigma, table.weights()):
        assert column.shape == (61,)
    assert table.timesteps[0] == 999
    assert table.timesteps[-1] == 15
    # And the last step ends where diffusers' tables end for every other number of steps, at z0.
    x0 = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eps = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    abar = table.process.squared_signal[15]
    z = abar.sqrt() * x0 + (1 - abar).sqrt() * eps
    torch.testing.assert_close(table.a[-1] * z + table.b[-1] * eps, x0, rtol=1e-5, atol=1e-5)


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


@pytest.mark.parametrize("kind", ["ddpm", "ddim", "euler"])
def test_another_class_gets_its_own_defaults_as_in_from_config(kind):
    """Also where the object at hand shows an option that only its class's default set."""
    classes = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler, "euler": EulerDiscreteScheduler}
    file = {**SD, "_class_name": "PNDMScheduler", "clip_sample": False, "steps_offset": 1}
    loaded = PNDMScheduler.from_config(file)
    native = classes[kind].from_config(loaded.config)
    native.set_timesteps(50)
    for scheduler in (file, loaded, loaded.config):
        table = Schedule.from_diffusers(scheduler, 50, kind=kind)
        assert torch.equal(table.timesteps, native.timesteps.double())


def test_options_of_another_solver_do_not_matter():
    """DPM-Solver's sigmas and its unused variance_type are nothing to the ancestral solver."""
    plain = Schedule.from_diffusers(gaussian.scheduler())
    dpm = DPMSolverMultistepScheduler(**SD, use_karras_sigmas=True, timestep_spacing="leading")
    explicit = {**dpm.config, "_class_name": "DPMSolverMultistepScheduler"}
    explicit.pop("_use_default_values")
    assert explicit["variance_type"] is None
    for scheduler in (dpm, explicit):
        table = Schedule.from_diffusers(scheduler, kind="ddpm")
        assert torch.equal(table.table(table.weights()), plain.table(plain.weights()))


def test_kappa_is_the_published_one():
    table = Schedule.from_diffusers(gaussian.scheduler(), 50)
    at = torch.tensor([981, 501, 101, 61, 41, 1])
    expected = torch.tensor([5.9, 3.3, 6.5, 9.6, 13.0, 251.0], dtype=torch.float64)
    # Published to two digits, 13 and 251 to the unit.
    half_unit = torch.tensor([0.05, 0.05, 0.05, 0.05, 0.5, 0.5])
    assert bool(((table.process.mi_weight(at, "reference") - expected).abs() <= half_unit).all())
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    abar = (1 - betas).cumprod(0)
    exact = betas * 1000 / (2 * (1 - betas) * (1 - abar))
    torch.testing.assert_close(table.process.mi_weight(at), exact[at], rtol=1e-3, atol=0)


def test_v_prediction_folds_abar():
    epsilon = Schedule.from_diffusers(gaussian.scheduler(), 50)
    v = Schedule.from_diffusers(gaussian.scheduler(prediction_type="v_prediction"), 50)
    t = torch.arange(1000)
    torch.testing.assert_close(
        v.process.mi_weight(t), epsilon.process.mi_weight(t) * epsilon.process.squared_signal
    )


def test_weights_average_over_the_counted_steps():
    table = Schedule.from_diffusers(gaussian.scheduler(steps_offset=1), 50)
    t = table.timesteps.long()
    torch.testing.assert_close(table.weights(), table.process.mi_weight(t) / 50)
    # The authors' t > 50 counts 47 of the 50 steps.
    weights = table.weights("reference")
    assert int((weights > 0).sum()) == 47
    torch.testing.assert_close(weights[:47], table.process.mi_weight(t, "reference")[:47] / 47)
    torch.testing.assert_close(
        table.weights("reference", t_min=-1), table.process.mi_weight(t, "reference") / 50
    )
    with pytest.raises(UserError, match="no step"):
        table.weights(t_min=990)
    with pytest.raises(UserError, match="t_min is 50: no step"):
        Schedule.from_diffusers(gaussian.scheduler(), 1).weights("reference")
    with pytest.raises(UserError, match="t_min is 999"):
        table.weights(t_min=999)
    with pytest.raises(UserError, match="paper, reference"):
        table.weights("authors")


def test_trained_betas_and_the_device_table():
    betas = torch.linspace(0.001, 0.02, 100).tolist()
    native = DDPMScheduler(trained_betas=betas, num_train_timesteps=100, clip_sample=False)
    native.set_timesteps(10)
    table = Schedule.from_diffusers(native, 10)
    assert table.process.num_train_timesteps == 100
    assert worst(table, native, ddpm_step(native)) < 1e-5
    rows = table.table(table.weights())
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows[:, 2].double(), table.sigma, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"num_train_timesteps": 0}, {}, "expected at least 2"),
        ({"num_train_timesteps": 1}, {}, "expected at least 2"),
        ({"beta_start": -0.1, "beta_schedule": "linear"}, {}, "betas are -0.1 to 0.012"),
        ({"beta_end": 1.5, "beta_schedule": "linear"}, {}, "betas are 0.00085 to 1.5"),
        ({"beta_start": 0.0}, {}, "above 0"),
        ({"beta_end": math.nan}, {}, "above 0"),
        ({"trained_betas": [0.1, 1.0, 0.1], "num_train_timesteps": 3}, {}, "the last may be 1"),
        ({}, {"kind": "heun"}, "choose one of ddpm, ddim, euler"),
        ({}, {"steps": 1001}, "expected 1 to 1000"),
        ({}, {"steps": 0}, "expected 1 to 1000"),
        ({"steps_offset": 1}, {"steps": 1000}, "use fewer steps"),
        ({}, {"eta": 2.0, "kind": "ddim"}, "expected 0 to 1"),
        ({"timestep_spacing": "uneven"}, {}, "uneven is not supported"),
        ({"num_train_timesteps": 10, "trained_betas": [0.1]}, {"steps": 1}, "expected 1, as many"),
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


@pytest.mark.parametrize(
    "changes",
    [
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"interpolation_type": "log_linear"},
        {"timestep_type": "continuous"},
        {"rescale_betas_zero_snr": True},
    ],
)
def test_euler_with_other_levels_than_the_models(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        Schedule.from_diffusers(EulerDiscreteScheduler(**SD, **changes))


def test_clip_sample_by_default_is_refused_for_dict_and_object_alike():
    for scheduler in ({**SD, "_class_name": "DDPMScheduler"}, DDPMScheduler(**SD)):
        with pytest.raises(UserError, match="clip_sample=False"):
            Schedule.from_diffusers(scheduler)


@pytest.mark.parametrize(
    ("scheduler", "kind", "message"),
    [
        (FlowMatchEulerDiscreteScheduler(), "ddpm", "does not solve a flow: choose euler"),
        (SD, None, "choose one of ddpm, ddim, euler"),
        (None, "ddpm", "expected a diffusers scheduler or its config"),
        ({**SD, "beta_schedule": "steep"}, "ddpm", "steep is not implemented"),
        (
            {**SD, "beta_start": "low"},
            "ddpm",
            r"^diffusers cannot build DDPMScheduler from [^\n]*$",
        ),
        ({**SD, "num_train_timesteps": 0, **ZERO_SNR}, "euler", "cannot build EulerDiscrete"),
    ],
)
def test_what_is_no_scheduler_of_such_a_model(scheduler, kind, message):
    with pytest.raises(UserError, match=message):
        Schedule.from_diffusers(scheduler, kind=kind)


def test_what_the_process_tells_by_the_names_it_had_here():
    table = Schedule.from_diffusers(gaussian.scheduler(), 5)
    with pytest.warns(DeprecationWarning, match=r"Schedule.prediction is .process.prediction now"):
        assert table.prediction == "epsilon"
    with pytest.warns(DeprecationWarning, match=r"Schedule.kappa is .process.mi_weight now"):
        assert table.kappa(torch.tensor(7)) == table.process.mi_weight(torch.tensor(7))
    with pytest.raises(AttributeError, match="'Schedule' object has no attribute 'betas'"):
        _ = table.betas
