import pytest
import torch
from tiny_model import TinyModel, TinySet, config, scramble
from torch import Tensor
from torch.func import functional_call

from mitune.adapters import adapter
from mitune.training.batch_loss import BatchLoss
from mitune.training.batches import Batches, MicroBatch
from mitune.training.loss import denoising_loss, information_loss


def samples(model: TinyModel, batch: int = 6) -> MicroBatch:
    made = Batches(model, TinySet().selected(), config(batch=batch, t_range=(0, 1000)))
    return next(iter(made.step(0)))


def direct_loss(model: TinyModel, unet: torch.nn.Module, data: MicroBatch) -> Tensor:
    """Mean squared error in float64 on diffusers' own noising and velocity."""
    latents, noise = data.latents.double(), data.noise.double()
    scheduler = model.scheduler
    noisy = scheduler.add_noise(latents, noise, data.t)
    target = (
        noise if model.prediction == "epsilon" else scheduler.get_velocity(latents, noise, data.t)
    )
    text = data.cond["encoder_hidden_states"].double()
    predicted = unet(noisy, data.t, text, return_dict=False)[0]
    return (predicted - target).square().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_the_mean_squared_error_of_the_schedulers_target(prediction: str) -> None:
    model = TinyModel(prediction)
    data = samples(model)
    found = denoising_loss(model, data, model.process)
    model.unet.double()
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(direct_loss(model, model.unet, data).tolist(), rel=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("method", ["dora", "lora"])
def test_the_gradient_is_that_of_the_equation_in_float64(method: str, prediction: str) -> None:
    """Without peft: the plain UNet with W' = m V / norm(V), V = W + s B A, the norm detached."""
    settings = config(method=method, rank=4, alpha=10.0)
    model = TinyModel(prediction)
    adapter.attach(model, settings)
    scramble(model.unet)
    data = samples(model)
    denoising_loss(model, data, model.process).mean().backward()
    tensors = adapter.parameters(model)

    plain = TinyModel(prediction).unet.double()
    leaves = {k: p.detach().double().requires_grad_() for k, p in tensors.items()}
    weights = {}
    for name in {key.rsplit(".lora_", 1)[0] for key in leaves}:
        base = plain.get_submodule(name).weight
        v = base + 10.0 / 4 * leaves[f"{name}.lora_B.weight"] @ leaves[f"{name}.lora_A.weight"]
        if method == "dora":
            m = leaves[f"{name}.lora_magnitude_vector.weight"]
            v = v * (m / v.detach().norm(dim=1))[:, None]
        weights[f"{name}.weight"] = v

    def merged(*arguments: Tensor, **options: bool) -> tuple[Tensor]:
        found: tuple[Tensor] = functional_call(plain, weights, arguments, options)
        return found

    direct_loss(model, merged, data).mean().backward()  # type: ignore[arg-type]
    for key, leaf in leaves.items():
        found, expected = tensors[key].grad, leaf.grad
        assert found is not None
        assert expected is not None
        assert expected.norm() > 0
        error = (found.double() - expected).norm() / expected.norm()
        assert error < 1e-4, key


def test_a_half_precision_model_is_compared_in_float32() -> None:
    model = TinyModel()
    data = samples(model)
    exact = denoising_loss(model, data, model.process)
    model.unet.bfloat16()
    model.dtype = torch.bfloat16
    half = MicroBatch(
        latents=data.latents,
        noise=data.noise,
        t=data.t,
        cond={name: tensor.bfloat16() for name, tensor in data.cond.items()},
    )
    found = denoising_loss(model, half, model.process)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(exact.tolist(), rel=0.02)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_is_diffusers_own_formula(prediction: str) -> None:
    """As diffusers' training scripts weigh it, with their SNR."""
    from diffusers.training_utils import compute_snr

    model = TinyModel(prediction)
    scheduler, process = model.scheduler, model.process
    t = torch.tensor([0, 10, 300, 500, 999])
    snr = compute_snr(scheduler, t)
    divisor = snr if prediction == "epsilon" else snr + 1
    expected = torch.stack([snr, 5.0 * torch.ones_like(snr)], dim=1).min(dim=1)[0] / divisor
    got = process.loss_weight(t, 5.0).float()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=0)
    assert process.loss_weight(t, None).tolist() == [1.0] * 5


def test_the_batchs_loss_is_weighted_and_over_its_whole_size() -> None:
    model = TinyModel()
    chosen = config(batch=10, micro_batch=4, snr_gamma=5.0)
    batches = Batches(model, TinySet().selected(), chosen)
    process = model.process
    with torch.no_grad():
        total = sum(BatchLoss(model, chosen)(model, samples) for samples in batches.step(0))
        parts = [
            process.loss_weight(s.t, 5.0) * denoising_loss(model, s, process)
            for s in batches.step(0)
        ]
    assert float(total) == pytest.approx(float(torch.cat(parts).mean()), rel=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_term_for_mutual_information_is_eq_2_of_the_pairs(prediction: str) -> None:
    """Against float64: kappa_t ||f_c - f_u||^2 in nats, per element."""
    model = TinyModel(prediction)
    data = samples(model)
    null = {name: row.expand(6, -1, -1) for name, row in model.encode_null().items()}
    plain = denoising_loss(model, data, model.process)
    found = information_loss(model, data, null, model.process, 0.5)
    unet = model.unet.double()
    noisy = model.scheduler.add_noise(data.latents.double(), data.noise.double(), data.t)
    given, empty = (
        unet(noisy, data.t, cond["encoder_hidden_states"].double(), return_dict=False)[0]
        for cond in (data.cond, null)
    )
    beta, alpha_bar = model.scheduler.betas.double(), model.scheduler.alphas_cumprod.double()
    kappa = (1000 * beta / (2 * (1 - beta) * (1 - alpha_bar)))[data.t]
    if prediction == "v_prediction":
        kappa = kappa * alpha_bar[data.t]
    nats = kappa * (given - empty).square().mean(dim=(1, 2, 3))
    assert found.tolist() == pytest.approx((plain.double() - 0.5 * nats).tolist(), rel=1e-4)


def test_the_term_has_no_gradient_through_the_unconditional_pass() -> None:
    model = TinyModel()
    adapter.attach(model, config())
    scramble(model.unet)
    data = samples(model)
    null = {name: row.expand(6, -1, -1) for name, row in model.encode_null().items()}
    passes = []

    def watched(z: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        made = model(z, t, cond)
        passes.append((cond is null, made.requires_grad))
        return made

    information_loss(watched, data, null, model.process, 0.5).mean().backward()
    assert passes == [(True, False), (False, True)]
