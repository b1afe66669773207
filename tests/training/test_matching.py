"""HN-ITM: the loss, its gradient, and the wrong prompts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_merged import adapted, worst
from test_preference import WorseSet
from tiny_model import TinyModel, TinySet, config

from mitune.adapters import adapter
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.methods.negatives import exchanged
from mitune.training.batches import Batches
from mitune.training.gradient import PeftGradient
from mitune.training.loop import tune
from mitune.training.loss import denoising_loss
from mitune.training.matching import matching_loss
from mitune.training.merged import MergedGradient

WRONG = {prompt: f"not {prompt}" for prompt, _ in TinySet().selected()}


def batches(model: TinyModel, chosen: TuneConfig, **given: Any) -> Batches:
    return Batches(model, TinySet().selected(), chosen, **given)


@pytest.mark.parametrize("factor", [0.9, 10.0])
def test_the_loss_counts_an_error_up_to_the_bound(factor: float) -> None:
    model, chosen = adapted()
    given = {"wrong": WRONG, "worse": WorseSet().selected()}
    (data,) = batches(model, chosen, **given).step(0, 99)
    assert data.wrong is not None
    assert data.worse is not None
    with torch.no_grad():
        found = matching_loss(model, data, model.process, factor)
        e = denoising_loss(model, data, model.process)
        others = []
        for latents, cond in ((data.latents, data.wrong), (data.worse, data.cond)):
            changed = type(data)(latents=latents, noise=data.noise, t=data.t, cond=cond)
            others.append(denoising_loss(model, changed, model.process))
    expected = e - sum(torch.minimum(other, factor * e) for other in others)
    assert torch.allclose(found, expected, atol=1e-5)
    texts = [prompt for prompt, _ in TinySet().selected()]
    rows = model.encode_prompts([WRONG[t] for t in texts])["encoder_hidden_states"]
    assert all(any(torch.equal(row, one) for one in rows) for row in data.wrong.popitem()[1])


def test_the_merged_gradient_is_pefts_own() -> None:
    model, chosen = adapted(double=True, itm_factor=0.9, micro_batch=3)
    made = {}
    for way in (PeftGradient, MergedGradient):
        gradient = way(model, chosen)
        gradient.begin()
        for samples in batches(model, chosen, wrong=WRONG).step(0):
            gradient.add(samples)
        gradient.finish()
        made[way] = {
            n: p.grad.clone() for n, p in adapter.parameters(model).items() if p.grad is not None
        }
    assert worst(made[MergedGradient], made[PeftGradient]) < 1e-6


def test_a_run_takes_wrong_prompts_or_worse_pictures(tmp_path: Path) -> None:
    chosen = config(itm_factor=1.0, iterations=1)
    tune(TinyModel(), TinySet(), tmp_path / "a", chosen, wrong=WRONG)
    tune(TinyModel(), TinySet(), tmp_path / "b", chosen, worse=WorseSet())
    with pytest.raises(UserError, match="other settings"):
        tune(TinyModel(), TinySet(), tmp_path / "a", chosen, wrong=WRONG, worse=WorseSet())
    with pytest.raises(UserError, match="without worse pictures or wrong prompts"):
        tune(TinyModel(), TinySet(), tmp_path / "c", chosen)
    with pytest.raises(UserError, match="no wrong prompt for"):
        tune(TinyModel(), TinySet(), tmp_path / "c", chosen, wrong={})
    with pytest.raises(UserError, match="dpo_beta is 3"):
        config(itm_factor=1.0, dpo_beta=3.0)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red circle and a blue square", "a blue circle and a red square"),
        ("a dog on the left of a car", "a car on the left of a dog"),
        ("a red dog and a cat", "a dog and a red cat"),
        ("a red car and a red bus", "a red bus and a red car"),
    ],
)
def test_a_wrong_prompt_exchanges_what_two_phrases_say(prompt: str, expected: str) -> None:
    assert exchanged(prompt) == expected


def test_one_phrase_has_no_wrong_prompt() -> None:
    with pytest.raises(UserError, match="no two noun phrases"):
        exchanged("a red circle")
