"""Prior preservation: the term, its samples, and that the others do not notice."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from outcome import distance
from tiny_model import TinyModel, TinySet, config, scramble, tree

from mitune.adapters import adapter
from mitune.adapters.adapter_file import FILE
from mitune.cli.commands import tune as verb
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.training.batches import Batches, MicroBatch
from mitune.training.gradient import PeftGradient
from mitune.training.loop import tune
from mitune.training.merged import MergedGradient
from mitune.training.processes import Processes


class PriorSet(TinySet):
    """Pairs of other prompts and latents."""

    def __init__(self, pairs: int = 3) -> None:
        super().__init__(pairs, seed=7)
        self.pairs = [(f"prior {i}", latent) for i, (_, latent) in enumerate(self.pairs)]


def samples(step: int = 0, prior: int = 3, part: Any = None, **changes: Any) -> MicroBatch:
    """All of a step's in one."""
    chosen = config(prior_weight=0.5 if prior else 0.0, **changes)
    batches = Batches(TinyModel(), TinySet().selected(), chosen, PriorSet(prior).selected())
    (found,) = batches.step(step, 99, *([] if part is None else [part]))
    return found


def run(out: Path, micro_batch: int = 8, prior: PriorSet | None = None, **changes: Any) -> Path:
    chosen = config(**({"prior_weight": 0.5, "micro_batch": micro_batch} | changes))
    return tune(TinyModel(), TinySet(), out, chosen, prior=prior or PriorSet())


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs") / "straight")


@pytest.mark.parametrize("way", [PeftGradient, MergedGradient], ids=["peft", "merged"])
def test_the_gradient_is_that_of_the_sum(way: Any) -> None:
    """mean + 0.3 mean of the prior, written out in float64; the others are a run's without it."""

    def model_and(**changes: Any) -> tuple[TinyModel, TuneConfig]:
        model, chosen = TinyModel(), config(**changes)
        adapter.attach(model, chosen)
        scramble(model.unet)
        model.unet.double()
        model.dtype = torch.float64
        return model, chosen

    model, chosen = model_and(prior_weight=0.3, micro_batch=3)
    batches = Batches(model, TinySet().selected(), chosen, PriorSet().selected())
    made = way(model, chosen)
    made.begin()
    total = sum(made.add(part) for part in batches.step(0))
    made.finish()
    got = {n: p.grad.clone() for n, p in adapter.parameters(model).items() if p.grad is not None}

    model, chosen = model_and()
    prior = [batches.pairs(0)[8:] - 5, batches.times(0)[0][8:]]
    (whole,) = batches.step(0, 16)
    losses = []
    for pairs, numbers, t, noise in (
        (TinySet().selected(), batches.pairs(0)[:8], batches.times(0)[0][:8], whole.noise[:8]),
        (PriorSet().selected(), *prior, whole.noise[8:]),
    ):
        prompts, latents = zip(*(pairs[i] for i in numbers.tolist()), strict=True)
        noisy = model.scheduler.add_noise(torch.stack(latents).double(), noise.double(), t)
        text = model.encode_prompts(prompts)["encoder_hidden_states"]
        losses.append((model.unet(noisy, t, text).sample - noise.double()).square().mean())
    loss = losses[0] + 0.3 * losses[1]
    loss.backward()
    assert float(total) == pytest.approx(loss.item(), rel=1e-6)
    assert losses[1].item() > 0.1
    for name, parameter in adapter.parameters(model).items():
        assert parameter.grad is not None
        error = (got[name] - parameter.grad).norm() / parameter.grad.norm()
        assert float(error) < 1e-5, name  # ours adds the noise and takes the loss in float32


def test_the_others_do_not_notice() -> None:
    with_it, without = samples(2), samples(2, prior=0)
    assert len(with_it.t) == 2 * len(without.t) == 16
    for name in ("latents", "noise", "t"):
        assert torch.equal(getattr(with_it, name)[:8], getattr(without, name))
    for name, tensor in without.cond.items():
        assert torch.equal(with_it.cond[name][:8], tensor)
    assert without.weight is None
    assert with_it.weight is not None
    assert with_it.weight.tolist() == [1.0] * 8 + [0.5] * 8
    # And the prior has noise of its own.
    assert not (with_it.noise[8:].flatten(1)[:, None] == with_it.noise[:8].flatten(1)).all(2).any()


def test_its_epochs_are_its_own() -> None:
    """Every prior pair once in an epoch, in another order each, whatever the set's size."""
    chosen = config(prior_weight=1.0, batch=2)
    batches = Batches(TinyModel(), TinySet().selected(), chosen, PriorSet(6).selected())
    order = torch.cat([batches.pairs(step)[2:] for step in range(12)]) - len(batches)
    epochs = [tuple(epoch) for epoch in order.view(4, 6).tolist()]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len(set(epochs)) > 1


def test_two_processes_share_it() -> None:
    whole, parts = samples(), [samples(part=Processes(rank, 2).part) for rank in range(2)]
    for name in ("latents", "noise", "t", "weight"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(whole, name))
    halves = whole.chunk(2)
    assert halves[1].weight is not None
    assert halves[1].weight.tolist() == [0.5] * 8


@pytest.mark.parametrize("micro_batch", [3, 16])
def test_the_micro_batch_does_not_change_the_adapter(
    tmp_path: Path, straight: Path, micro_batch: int
) -> None:
    run(tmp_path, micro_batch)
    assert distance(tmp_path, straight) <= 1e-5


def test_it_changes_the_result_and_survives_a_kill(tmp_path: Path, straight: Path) -> None:
    tune(TinyModel(), TinySet(), tmp_path / "without", config())
    assert distance(tmp_path / "without", straight) > 1e-4

    def kill(done: int, total: int, loss: float) -> None:
        if done == 4:
            raise InterruptedError

    chosen = config(prior_weight=0.5)
    with pytest.raises(InterruptedError):
        tune(TinyModel(), TinySet(), tmp_path / "a", chosen, prior=PriorSet(), progress=kill)
    run(tmp_path / "a")
    assert tree(tmp_path / "a")[FILE] == tree(straight)[FILE]


def test_both_or_neither_and_another_run(tmp_path: Path, straight: Path) -> None:
    def refusal(out: Path, prior: Any, **changes: Any) -> str:
        with pytest.raises(UserError) as caught:
            tune(TinyModel(), TinySet(), out, config(**changes), prior=prior)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    new = tmp_path / "new"
    assert "without a set of prior pairs" in refusal(new, None, prior_weight=0.5)
    assert "with a set of prior pairs" in refusal(new, PriorSet())
    assert "no selected pair" in refusal(new, PriorSet(0), prior_weight=0.5)
    broken = PriorSet()
    broken.pairs[1] = ("prior 1", torch.full((4, 8, 8), torch.nan))
    assert "pair 1 ('prior 1') of the prior set" in refusal(new, broken, prior_weight=0.5)
    assert not new.exists()
    assert "config.prior_weight is 0.5 there and 0.25" in refusal(
        straight, PriorSet(), prior_weight=0.25
    )
    assert "prior.sha256" in refusal(straight, PriorSet(4), prior_weight=0.5)
    with pytest.raises(UserError, match="prior_weight is -1: expected 0 or a positive number"):
        config(prior_weight=-1)


def test_the_card_and_the_record_tell_it(straight: Path) -> None:
    settings = json.loads((straight / "run.json").read_text())["settings"]
    assert settings["prior"]["pairs"] == 3
    card = (straight / "README.md").read_text()
    assert f"| prior set | 3 pairs, SHA-256 {settings['prior']['sha256']} |" in card
    assert "| prior_weight | 0.5 |" in card


@pytest.mark.parametrize(
    ("options", "weight"), [({}, 0.0), ({"prior": Path("p")}, 1.0),
    ({"prior": Path("p"), "prior_weight": 0.1}, 0.1)],
)  # fmt: skip
def test_the_verb_weighs_it_one_unless_told(
    monkeypatch: pytest.MonkeyPatch, shapes_model: Any, options: dict[str, Any], weight: float
) -> None:
    seen: dict[str, Any] = {}

    def tuned(model: Any, pairs: Any, out: Path, chosen: TuneConfig, **rest: Any) -> Path:
        seen.update(rest, chosen=chosen)
        return out

    monkeypatch.setattr(verb.Tune, "load", lambda self, adapter=None: shapes_model)
    monkeypatch.setattr(verb, "whole_set", lambda path, model: str(path))
    monkeypatch.setattr("mitune.training.loop.tune", tuned)
    own = {name: options[name] for name in options.keys() & {"prior"}}
    settings = {name: options[name] for name in options.keys() - own.keys()}
    verb.Tune(set=Path("s"), out=Path("o"), quiet=True, settings=settings, **own).run()
    assert seen["chosen"].prior_weight == weight
    assert seen["prior"] == ("p" if options else None)
