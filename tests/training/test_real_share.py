import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from outcome import Killed
from safetensors.torch import load_file
from tiny_model import TinyModel, TinySet, config, refusal
from torch import Tensor

from mitune.adapters.adapter_file import FILE
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.training.batches import Batches
from mitune.training.loop import tune
from mitune.training.mixing import real_pairs

GENERATED = 6


class TinyReal(TinySet):
    """Real pairs, the best first, told from generated ones by their prompts."""

    def __init__(self, pairs: int = 60, seed: int = 7) -> None:
        super().__init__(pairs, seed)
        self.pairs = [(f"real {n}", latent) for n, (_, latent) in enumerate(self.pairs)]

    def best(self, count: int) -> list[tuple[str, Tensor]]:
        return self.pairs[:count]


class Both(TinySet):
    """Generated and real pairs as one set."""

    def __init__(self, real: int) -> None:
        super().__init__(GENERATED)
        self.pairs = [*self.pairs, *TinyReal().best(real)]


def run(out: Path, *, real: Any = None, progress: Any = None, **changes: Any) -> Path:
    settings = config(**({"real_share": 0.4} | changes))
    chosen = TinyReal() if real is None else real
    return tune(TinyModel(), TinySet(GENERATED), out, settings, real=chosen, progress=progress)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that others are compared with: 6 generated pairs and 4 real ones."""
    return run(tmp_path_factory.mktemp("runs") / "straight")


@pytest.mark.parametrize(("share", "real"), [(0.25, 2), (0.4, 4), (0.5, 6), (0.9, 54)])
def test_the_share_is_exact_over_an_epoch(share: float, real: int) -> None:
    generated = TinySet(GENERATED).selected()
    added = real_pairs(TinyReal(), share, GENERATED)
    assert [prompt for prompt, _ in added] == [f"real {n}" for n in range(real)]  # the best
    total = GENERATED + real
    assert abs(real / total - share) * total <= 0.5
    # Batches of 4: epochs end within them, as they please.
    made = Batches(TinyModel(), [*generated, *added], config(batch=4))
    stream = torch.cat([made.pairs(step) for step in range(total)])
    for epoch in stream.split(total):
        assert int((epoch >= GENERATED).sum()) == real
        assert sorted(epoch.tolist()) == list(range(total))
    first = made.pairs(0).tolist()
    samples = torch.cat([part.latents for part in made.step(0)])
    pairs = [*generated, *added]
    assert all(torch.equal(samples[n], pairs[pair][1]) for n, pair in enumerate(first))


def test_it_is_training_on_the_set_of_all_these_pairs(tmp_path: Path, straight: Path) -> None:
    tune(TinyModel(), Both(4), tmp_path / "one", config())
    one, mixed = load_file(tmp_path / "one" / FILE), load_file(straight / FILE)
    assert one.keys() == mixed.keys()
    assert all(torch.equal(one[name], mixed[name]) for name in one)
    tune(TinyModel(), TinySet(GENERATED), tmp_path / "without", config())
    without = load_file(tmp_path / "without" / FILE)
    assert max((without[name] - mixed[name]).abs().max().item() for name in mixed) > 1e-4


@pytest.mark.parametrize("step", [2, 4])
def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path, straight: Path, step: int) -> None:
    def kill(done: int, total: int, loss: float) -> None:
        if done == step:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, progress=kill)
    assert not (tmp_path / FILE).exists()
    run(tmp_path)
    assert (tmp_path / FILE).read_bytes() == (straight / FILE).read_bytes()


def test_the_micro_batch_does_not_change_the_adapter(tmp_path: Path, straight: Path) -> None:
    run(tmp_path, micro_batch=3)
    one, other = load_file(tmp_path / FILE), load_file(straight / FILE)
    assert max((one[name] - other[name]).abs().max().item() for name in one) <= 1e-5


def test_the_real_pairs_are_recorded_and_others_refused(tmp_path: Path, straight: Path) -> None:
    recorded = json.loads((straight / "run.json").read_text())["settings"]
    assert recorded["config"]["real_share"] == 0.4
    assert (recorded["set"]["pairs"], recorded["real"]["pairs"]) == (GENERATED, 4)
    assert recorded["real"]["settings"] == {"steps": 50, "seed": 7}
    assert run(straight) == straight
    # Pairs beyond those that are taken decide nothing.
    fewer = TinyReal()
    fewer.pairs = fewer.pairs[:4]
    assert run(straight, real=fewer) == straight
    other = refusal(run, straight, real=TinyReal(seed=8))
    assert "real.settings.seed is 7 there and 8 here" in other
    assert "real.sha256" in other
    assert "set.sha256" not in other
    share = refusal(run, straight, real_share=0.5)
    assert "config.real_share is 0.4 there and 0.5 here" in share
    assert "real.pairs is 4 there and 6 here" in share
    tune(TinyModel(), TinySet(GENERATED), tmp_path, config(iterations=1))
    assert "real" not in json.loads((tmp_path / "run.json").read_text())["settings"]
    assert "real.pairs is 'absent' there and 4 here" in refusal(run, tmp_path, iterations=1)


def test_a_share_that_cannot_be_had(tmp_path: Path) -> None:
    def refuse(real: Any, share: float) -> str:
        settings = config(real_share=share)
        message = refusal(
            tune, TinyModel(), TinySet(GENERATED), tmp_path / "new", settings, real=real
        )
        assert not (tmp_path / "new").exists()
        return message

    assert "real_share is 0.5 without a set" in refuse(None, 0.5)
    assert "real_share is 0.0 with a set" in refuse(TinyReal(), 0.0)
    assert "not one real pair" in refuse(TinyReal(), 0.05)
    few = refuse(TinyReal(3), 0.5)
    assert "takes 6 real pairs beside 6 generated" in few
    assert "keeps 3: expected a share of at most 0.333" in few
    assert len(real_pairs(TinyReal(3), 0.333, GENERATED)) == 3
    empty = refusal(tune, TinyModel(), TinySet(0), tmp_path / "new", config(), real=None)
    assert "no selected pair" in empty
    with pytest.raises(UserError, match="no selected pair"):
        tune(TinyModel(), TinySet(0), tmp_path / "n", config(real_share=0.5), real=TinyReal())


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, math.nan])
def test_a_share_out_of_range_is_named(share: float) -> None:
    assert f"real_share is {share}" in refusal(TuneConfig, real_share=share)
