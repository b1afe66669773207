from collections import Counter

import pytest
import torch
from tiny_model import TinyModel, TinySet, config
from torch import Tensor

from mitune.core.errors import UserError
from mitune.training.batches import Batches, MicroBatch


def batches(pairs: int = 5, model: TinyModel | None = None, **changes: object) -> Batches:
    return Batches(model or TinyModel(), TinySet(pairs).selected(), config(**changes))


def whole(parts: list[MicroBatch]) -> dict[str, Tensor]:
    names = ("latents", "noise", "t")
    found = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return found | {"text": torch.cat([p.cond["encoder_hidden_states"] for p in parts])}


@pytest.mark.parametrize(("pairs", "batch"), [(5, 8), (7, 3), (3, 20), (1, 4)])
def test_epochs_laid_end_to_end_show_every_pair_equally_often(pairs: int, batch: int) -> None:
    made = batches(pairs, batch=batch)
    stream = torch.cat([made.pairs(step) for step in range(pairs)])
    assert len(stream) == pairs * batch
    for epoch in stream.split(pairs):
        assert sorted(epoch.tolist()) == list(range(pairs))


def test_epochs_and_seeds_are_shuffled_differently_and_fairly() -> None:
    one, two = (batches(4, batch=2400, seed=seed).pairs(0).view(600, 4) for seed in (1, 2))
    assert not torch.equal(one, two)
    counts = Counter(map(tuple, one.tolist()))
    assert len(counts) == 24
    # Each order has mean 25, deviation 5.
    assert max(counts.values()) < 50


def test_timesteps_fill_the_range_evenly_and_stay_in_it() -> None:
    made = batches(t_range=(500, 1000), batch=2000)
    t = torch.cat([made.times(step)[0] for step in range(10)])
    assert t.dtype == torch.int64
    assert t.min() == 500
    assert t.max() == 999
    # Uniform on 500..999: mean 749.5, deviation 144.3 / sqrt(20000) = 1.02.
    assert abs(t.double().mean().item() - 749.5) < 5
    assert abs((t < 625).double().mean().item() - 0.25) < 0.02
    assert set(batches(t_range=(7, 8)).times(0)[0].tolist()) == {7}
    assert batches(t_range=(0, 1000), batch=5000).times(0)[0].max() == 999


def test_noise_is_standard_normal_and_its_own_at_every_step_and_position() -> None:
    made = batches(batch=40, micro_batch=40)
    noise = torch.stack([whole(list(made.step(step)))["noise"] for step in range(10)])
    assert abs(noise.mean().item()) < 4 / noise.numel() ** 0.5
    assert abs(noise.var().item() - 1) < 4 * (2 / noise.numel()) ** 0.5
    rows = noise.flatten(0, 1).flatten(1)
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 0.45  # 6 deviations of 256 elements
    assert not torch.equal(whole(list(batches(seed=1).step(0)))["noise"], noise[0, :8])


@pytest.mark.parametrize("micro_batch", [1, 3, 8, 100])
def test_the_micro_batch_splits_the_same_batch(micro_batch: int) -> None:
    parts = list(batches(micro_batch=micro_batch, caption_dropout=0.3).step(4))
    assert all(len(part.t) <= micro_batch for part in parts)
    found = whole(parts)
    expected = whole(list(batches(micro_batch=5, caption_dropout=0.3).step(4)))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_step_does_not_depend_on_the_steps_before() -> None:
    made = batches()
    for step in range(3):
        list(made.step(step))
    found, expected = whole(list(made.step(3))), whole(list(batches().step(3)))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_each_sample_has_the_latent_and_the_text_of_its_pair() -> None:
    model, pairs = TinyModel(), TinySet().selected()
    made = Batches(model, pairs, config(batch=10))
    assert sorted(model.encoded) == sorted({prompt for prompt, _ in pairs})  # each only once
    samples = whole(list(made.step(0)))
    for position, pair in enumerate(made.pairs(0).tolist()):
        prompt, latent = pairs[pair]
        text = model.encode_prompts([prompt])["encoder_hidden_states"][0]
        assert torch.equal(samples["latents"][position], latent)
        assert torch.equal(samples["text"][position], text)


def test_dropped_captions_are_the_empty_prompt_and_as_many_as_asked() -> None:
    text = whole(list(batches(batch=4000, caption_dropout=0.25).step(0)))["text"]
    empty = ~text.flatten(1).any(1)
    assert abs(empty.double().mean().item() - 0.25) < 0.03
    assert not (~whole(list(batches(batch=50).step(0)))["text"].flatten(1).any(1)).any()
    assert not whole(list(batches(caption_dropout=1.0).step(0)))["text"].any()


def test_the_samples_are_those_of_every_earlier_version() -> None:
    """As 0.1 of 2026-11 drew them: a run that it began goes on, and studies compare across
    versions."""
    chosen = config(t_range=(0, 1000), caption_dropout=0.0)
    first = next(iter(Batches(TinyModel(), TinySet().selected(), chosen).step(0)))
    assert first.t.tolist() == [174, 116, 148, 910, 60, 163, 132, 745]
    order = [-1.1258, -1.0841, -0.5461, 0.4974, -0.0394, -1.1258, -1.0841, -0.5461]
    assert first.latents[:, 0, 0, 0].tolist() == pytest.approx(order, abs=1e-4)
    noise = [-0.15456, -1.61166, 0.15571, 1.67968, 0.12665, -2.08402, -0.30286, -0.54083]
    assert first.noise[:, 0, 0, 0].tolist() == pytest.approx(noise, abs=1e-4)


def test_a_set_that_cannot_be_trained_on_is_refused() -> None:
    model = TinyModel()
    with pytest.raises(UserError, match="no selected pair"):
        Batches(model, [], config())
    with pytest.raises(UserError, match=r"pair 0 \('p'\).*\[4, 4, 4\]: expected \[4, 8, 8\]"):
        Batches(model, [("p", torch.zeros(4, 4, 4))], config())
    with pytest.raises(UserError, match="not finite"):
        Batches(model, [("p", torch.full((4, 8, 8), torch.nan))], config())
    with pytest.raises(UserError, match="at most 1000"):
        Batches(model, TinySet().selected(), config(t_range=(0, 1001)))
