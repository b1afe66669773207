"""Standard errors against hand computation and simulation; models compared on equal noise."""

import math
from dataclasses import replace

import pytest
import torch

from mitune.adapters import adapter
from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.evaluation.compare import Comparison, pooled
from mitune.evaluation.report import compare_models
from mitune.evaluation.standard_error import estimate
from mitune.worlds.shapes_v1.prompts import prompts


def test_error_over_prompts_by_hand():
    values = torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0, 11.0], dtype=torch.float64)
    result = estimate(values, ["a", "a", "b", "b", "c", "c"], [0] * 6)
    # Prompt means 2, 6, 10: variance 16 over 3 prompts.
    assert result.mean == pytest.approx(6.0)
    assert result.standard_error == pytest.approx(math.sqrt(16 / 3))


def test_seeds_add_their_own_error():
    values = torch.tensor([0.0, 2.0, 0.0, 2.0], dtype=torch.float64)
    result = estimate(values, ["a", "a", "b", "b"], [0, 1, 0, 1])
    # Both prompts have mean 1; the seeds have means 0 and 2: variance 2 over 2 seeds.
    assert result.standard_error == pytest.approx(1.0)


def test_non_finite_values_are_left_out():
    values = torch.tensor([1.0, math.nan, 3.0, math.inf], dtype=torch.float64)
    result = estimate(values, ["a", "a", "b", "b"], [0] * 4)
    assert (result.mean, result.standard_error) == (2.0, pytest.approx(1.0))
    assert math.isnan(estimate(values[:1], ["a"], [0]).standard_error)
    assert math.isnan(estimate(values[1:2], ["a"], [0]).mean)


@pytest.mark.parametrize(("prompt_sd", "seed_sd"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_errors_cover_what_they_claim(prompt_sd, seed_sd):
    """Repeated experiments with known effects of prompts and seeds scatter by the stated error."""
    generator = torch.Generator().manual_seed(3)
    rows, columns = 12, 6
    labels = [str(i) for i in range(rows) for _ in range(columns)]
    seeds = [s for _ in range(rows) for s in range(columns)]
    means, variances = [], []
    for _ in range(1500):
        effect = prompt_sd * torch.randn(rows, 1, generator=generator, dtype=torch.float64)
        run = seed_sd * torch.randn(1, columns, generator=generator, dtype=torch.float64)
        noise = 0.3 * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        result = estimate((effect + run + noise).flatten(), labels, seeds)
        means.append(result.mean)
        variances.append(result.standard_error**2)
    ratio = float(torch.tensor(variances).mean() / torch.tensor(means).var())
    # Right, and if anything too large; 1500 repetitions know a variance to about 4 %.
    assert 0.9 < ratio < 1.15


def test_differences_are_paired():
    base = torch.arange(8.0, dtype=torch.float64)
    comparison = Comparison(
        prompts=[str(i // 2) for i in range(8)],
        seeds=[0] * 8,
        values={"base": {"m": base}, "tuned": {"m": base + 0.5}},
    )
    gain = comparison.difference("tuned", "base", "m")
    assert (gain.mean, gain.standard_error) == (0.5, pytest.approx(0.0, abs=1e-12))
    assert comparison.mean("base", "m").standard_error > 1
    rows = comparison.rows()
    assert [(r["model"], r["gain"]) for r in rows] == [("base", 0.0), ("tuned", 0.5)]
    assert "0.500 ± 0.000" in str(comparison)


def test_pooling_keeps_names_apart():
    one = Comparison(prompts=["a"], seeds=[0], values={"base": {"m": torch.ones(1)}})
    two = replace(one, seeds=[1], values={"base": {"m": torch.zeros(1)}})
    assert pooled([two, one, two]).seeds == [1, 0, 1]
    assert pooled([two, one, two]).seed_means("base", "m") == [0.0, 1.0]
    other = replace(one, values={"tuned": {"m": torch.ones(1)}})
    with pytest.raises(UserError, match="different models"):
        pooled([one, other])


def test_an_adapter_that_does_nothing_changes_nothing(exact_model, tmp_path):
    """Equal noise: a fresh DoRA (B = 0) draws the base model's pictures again."""
    adapter.attach(exact_model, exact_model.preset.tuning)
    adapter.save(exact_model, tmp_path, {"fingerprint": exact_model.fingerprint})
    adapter.detach(exact_model)
    comparison, drawn = compare_models(
        exact_model,
        {"fresh": tmp_path},
        prompts("test")[:3],
        images=2,
        seed=5,
        sampler=SamplerConfig(steps=5, guidance=2.0),
    )
    assert comparison.prompts == [p for p in prompts("test")[:3] for _ in range(2)]
    difference = drawn["fresh"].latents - drawn["base"].latents
    # m / ||V|| is 1, up to the rounding of a float32 norm.
    assert float(difference.abs().max()) < 1e-4
    assert abs(comparison.difference("fresh", "base", "mi_nats").mean) < 0.05
    assert not adapter.attached(exact_model)


def test_further_metrics_are_columns_of_the_comparison(exact_model):
    class Brightness:
        name, requires = "brightness", "nothing"

        def score(self, images, prompts, /):
            return images.double().mean(dim=(1, 2, 3))

    comparison, drawn = compare_models(
        exact_model,
        {},
        prompts("test")[:2],
        images=1,
        seed=5,
        sampler=SamplerConfig(steps=2, guidance=2.0),
        scorers=[Brightness()],
    )
    pictures = exact_model.decode(drawn["base"].latents)
    expected = pictures.double().mean(dim=(1, 2, 3))
    assert torch.equal(comparison.values["base"]["brightness"], expected)
