"""DPOK: likelihoods of paths, the loss, and a run that learns and goes on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mitune
from mitune.adapters import adapter
from mitune.config.sampling import SamplerConfig
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.methods import dpok as module
from mitune.methods.dpok import DpokConfig, dpok, update
from mitune.methods.policy import Paths, drawn, log_prob, mean_of, noisy_steps
from mitune.methods.sampling.guided import Guided

PROMPTS = ["a red circle", "a blue square"]
SAMPLER = SamplerConfig(steps=4, guidance=2.0)


def small(**changes: Any) -> DpokConfig:
    tuning = TuneConfig(lr=3e-3, rank=2, alpha=2, checkpoint_every=1)
    given = {"iterations": 2, "prompts": 1, "candidates": 3, "updates": 2, "batch": 4}
    return DpokConfig(sampler=SAMPLER, tuning=tuning, **(given | changes))


def redness(prompts: Any, latents: Tensor) -> Tensor:
    return latents[:, 0].flatten(1).mean(1)


def test_a_path_is_the_engines_and_has_the_likelihood_of_its_noise(exact_model: Any) -> None:
    guided = Guided(exact_model, PROMPTS, exact_model.schedule(SAMPLER), 2.0)
    paths = drawn(guided, [(5, text, 0) for text in PROMPTS])
    made = sorted(
        mitune.generate(exact_model, PROMPTS, candidates=1, sampler=SAMPLER, seed=5),
        key=lambda c: c.prompt_index,
    )
    assert torch.allclose(paths.states[-1], torch.stack([c.latent for c in made]), atol=1e-3)
    # Of standard normal noise, per element, about -1/2.
    noisy = noisy_steps(guided.schedule)
    assert paths.log_probs[noisy].mean() == pytest.approx(-0.5, abs=0.1)
    quiet = [step for step in range(4) if step not in noisy]
    assert paths.log_probs[quiet].abs().sum() == 0


def test_the_log_density_is_that_of_a_normal_distribution() -> None:
    draw = torch.Generator().manual_seed(0)
    mean, after = torch.randn(2, 2, 3, generator=draw, dtype=torch.float64)
    normal = torch.distributions.Normal(mean, 0.3)
    constant = normal.log_prob(mean).mean(1)
    assert torch.allclose(log_prob(mean, after, 0.3), normal.log_prob(after).mean(1) - constant)


def test_the_gradient_raises_what_was_rewarded_and_the_divergence_holds(exact_model: Any) -> None:
    """In float64: the first gradient is that of -w A log p, as the divergence has none where the
    adapter does nothing."""
    config = small(clip=10.0, batch=64)
    guided = Guided(exact_model, PROMPTS, exact_model.schedule(SAMPLER), 2.0)
    adapter.attach(exact_model, config.tuning)
    try:
        paths = drawn(guided, [(5, text, 0) for text in PROMPTS])
        advantage = torch.tensor([1.0, -1.0])
        fixed = Guided(adapter.without_adapter(exact_model), PROMPTS, guided.schedule, 2.0)
        update(guided, fixed, paths, advantage, config, torch.Generator().manual_seed(0))
        parameters = adapter.parameters(exact_model)
        got = {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}
        draw = torch.Generator().manual_seed(0)
        noisy = noisy_steps(guided.schedule)
        chosen = torch.randint(len(noisy) * 2, (64,), generator=draw)
        total = torch.zeros((), dtype=torch.float64)
        for number in chosen.tolist():
            step, row = noisy[number // 2], number % 2
            mean = mean_of(guided.rows(torch.tensor([row])), paths.states[step][[row]], step)
            sigma = float(guided.schedule.sigma[step])
            found = log_prob(mean, paths.states[step + 1][[row]], sigma)
            total = total - config.reward_weight * float(advantage[row]) * found.sum() / 64
        expected = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, expected, strict=True):
            if gradient is not None and gradient.norm() > 1e-6:
                assert float((got[name] - gradient).norm() / gradient.norm()) < 1e-2
        assert sum(float(g.norm()) for g in got.values()) > 0
    finally:
        adapter.detach(exact_model)


def test_a_run_goes_on_and_ends_in_an_adapter(
    shapes_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = dpok(shapes_model, PROMPTS, redness, tmp_path / "a", small(), reward_name="red")
    assert not adapter.attached(shapes_model)
    card = (straight / "README.md").read_text()
    assert "trained on rewards of its own pictures" in card
    assert "| reward | red, on 2 prompts |" in card
    stop = {"after": 1}

    def stopping(*given: Any) -> Paths:
        if stop["after"] == 0:
            raise KeyboardInterrupt
        stop["after"] -= 1
        return drawn(*given)

    with monkeypatch.context() as patch:
        patch.setattr(module, "drawn", stopping)
        with pytest.raises(KeyboardInterrupt):
            dpok(shapes_model, PROMPTS, redness, tmp_path / "b", small(), reward_name="red")
    resumed = dpok(shapes_model, PROMPTS, redness, tmp_path / "b", small(), reward_name="red")
    one, other = (path / "pytorch_lora_weights.safetensors" for path in (straight, resumed))
    from safetensors.torch import load_file

    a, b = load_file(one), load_file(other)
    assert all(torch.equal(a[name], b[name]) for name in a)
    tuned = mitune.load("shapes-v1", adapter=straight)
    assert adapter.attached(tuned)
    with pytest.raises(UserError, match="other settings"):
        dpok(shapes_model, PROMPTS, redness, tmp_path / "a", small(), reward_name="blue")


def test_what_cannot_be_is_refused(shapes_model: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="candidates is 1"):
        small(candidates=1)
    quiet = DpokConfig(sampler=SamplerConfig(steps=4, scheduler="ddim"))
    with pytest.raises(UserError, match="adds no noise"):
        dpok(shapes_model, PROMPTS, redness, tmp_path / "c", quiet, reward_name="red")
