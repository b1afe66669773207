"""Diffusion-DPO: the loss, its gradient, and which pictures are compared."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_merged import adapted, worst
from tiny_model import TinyModel, TinySet, config
from torch import Tensor

from mitune.adapters import adapter
from mitune.config.align import AlignConfig
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.training.batches import Batches
from mitune.training.gradient import PeftGradient
from mitune.training.loop import tune
from mitune.training.merged import MergedGradient
from mitune.training.preference import matched, preference_loss


class WorseSet(TinySet):
    """Other latents of the same prompts."""

    def __init__(self) -> None:
        super().__init__(seed=11)


def batches(model: TinyModel, chosen: TuneConfig) -> Batches:
    return Batches(model, TinySet().selected(), chosen, worse=WorseSet().selected())


def test_the_loss_is_equation_14_in_float64() -> None:
    model, chosen = adapted(dpo_beta=50.0)
    (data,) = batches(model, chosen).step(0, 99)
    reference = adapter.without_adapter(model)
    found = preference_loss(model, reference, data, model.process, 50.0)
    assert data.worse is not None
    assert not torch.equal(data.worse, data.latents)

    def error(network: Any, latents: Tensor) -> Tensor:
        noisy = model.scheduler.add_noise(latents.double(), data.noise.double(), data.t)
        text = data.cond["encoder_hidden_states"].double()
        predicted = network(noisy, data.t, text, return_dict=False)[0]
        return (predicted - data.noise.double()).square().mean(dim=(1, 2, 3))

    plain = TinyModel().unet.double()
    tuned = model.unet.double()
    better = error(tuned, data.latents) - error(plain, data.latents)
    worse = error(tuned, data.worse) - error(plain, data.worse)
    expected = -torch.log(torch.sigmoid(-25.0 * (better - worse)))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-4)
    assert float((found.detach() - float(torch.tensor(2.0).log())).abs().max()) > 1e-3


def test_the_merged_gradient_is_pefts_own() -> None:
    model, chosen = adapted(double=True, dpo_beta=50.0, micro_batch=3)
    made = {}
    for way in (PeftGradient, MergedGradient):
        gradient = way(model, chosen)
        gradient.begin()
        for samples in batches(model, chosen).step(0):
            gradient.add(samples)
        gradient.finish()
        made[way] = {
            n: p.grad.clone() for n, p in adapter.parameters(model).items() if p.grad is not None
        }
    assert worst(made[MergedGradient], made[PeftGradient]) < 1e-6


def test_the_reference_is_the_model_without_its_adapter_and_shares_its_weights() -> None:
    model, _ = adapted()
    reference = adapter.without_adapter(model)
    plain = TinyModel()
    z, t = torch.randn(2, *model.latent_shape), torch.tensor([10, 900])
    cond = model.encode_prompts(["a", "b"])
    with torch.no_grad():
        assert torch.allclose(reference(z, t, cond), plain(z, t, cond))
        assert not torch.allclose(model(z, t, cond), plain(z, t, cond))
    own = {p.data_ptr() for p in model.unet.parameters()}
    assert all(p.data_ptr() in own for p in reference.networks["unet"].parameters())
    assert adapter.attached(model)


def test_a_step_down_the_gradient_prefers_the_pairs() -> None:
    """On the samples that it was computed from, in float64."""
    model, chosen = adapted(double=True, dpo_beta=50.0)

    def loss() -> float:
        gradient = PeftGradient(model, chosen)
        gradient.begin()
        return sum(float(gradient.add(samples)) for samples in batches(model, chosen).step(0))

    before = loss()
    with torch.no_grad():
        gradients = {n: p.grad for n, p in adapter.parameters(model).items() if p.grad is not None}
        length = torch.stack([g.norm() for g in gradients.values()]).norm()
        for name, parameter in adapter.parameters(model).items():
            parameter -= 1e-3 / length * gradients[name]
    assert loss() < before - 0.5e-3 * float(length)


def test_a_run_begins_at_indifference_and_is_another_than_without_preferences(
    tmp_path: Path,
) -> None:
    chosen = config(dpo_beta=200.0, iterations=2)
    out = tune(TinyModel(), TinySet(), tmp_path / "run", chosen, worse=WorseSet())
    first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(float(torch.tensor(2.0).log()), rel=1e-3)
    with pytest.raises(UserError, match="other settings"):
        tune(TinyModel(), TinySet(), tmp_path / "run", config(iterations=2))


def test_each_pair_meets_a_worse_one_of_its_prompt() -> None:
    latents = [torch.full((1,), float(i)) for i in range(6)]
    pairs = [("a", latents[0]), ("a", latents[1]), ("b", latents[2])]
    worse = [("b", latents[3]), ("a", latents[4])]
    found = matched(pairs, worse, TuneConfig(dpo_beta=10.0))
    assert [(prompt, float(latent)) for prompt, latent in found] == [("a", 4), ("a", 4), ("b", 3)]
    with pytest.raises(UserError, match="none of the prompt 'b'"):
        matched(pairs, [("a", latents[4])], TuneConfig(dpo_beta=10.0))
    for given, beta in ((None, 1.0), (worse, 0.0)):
        with pytest.raises(UserError, match="worse pictures or wrong prompts"):
            matched(pairs, given, TuneConfig(dpo_beta=beta))
    assert matched(pairs, None, TuneConfig()) == []


@pytest.mark.parametrize(
    "changes",
    [{"method": "full"}, {"text_encoder_lr": 1e-4}, {"mi_weight": 0.1}, {"real_share": 0.5}],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="dpo_beta is 10"):
        TuneConfig(dpo_beta=10.0, **changes)


def test_align_has_no_worse_set() -> None:
    with pytest.raises(UserError, match="align has no set of worse pictures"):
        AlignConfig(tuning=TuneConfig(dpo_beta=10.0))
