"""GORS: which pictures it trains on, and with which weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.methods.gors import Rewarded, gors
from mitune.training import batch_loss
from mitune.training.batches import MicroBatch


@pytest.fixture
def pictures(shapes_model: Any) -> Rewarded:
    draw = torch.Generator().manual_seed(0)
    prompts = ["a red circle", "a red circle", "a blue square", "a green triangle"]
    return Rewarded(
        settings={"model_fingerprint": shapes_model.fingerprint},
        pairs=[(p, torch.randn(shapes_model.latent_shape, generator=draw)) for p in prompts],
        rewards=[0.9, 0.2, 0.5, 1.0],
    )


def run(model: Any, pictures: Rewarded, out: Path, **given: Any) -> Path:
    config = model.preset.tuning.__class__(
        iterations=1, batch=6, micro_batch=6, rank=2, gradient="peft"
    )
    return gors(model, pictures, out, config, **given)


def test_the_loss_of_each_picture_is_weighted_by_its_reward(
    shapes_model: Any, pictures: Rewarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[MicroBatch, Tensor]] = []
    own = batch_loss.denoising_loss

    def watched(model: Any, samples: MicroBatch, process: Any) -> Tensor:
        loss = own(model, samples, process)
        seen.append((samples, loss.detach()))
        return loss

    monkeypatch.setattr(batch_loss, "denoising_loss", watched)
    out = run(shapes_model, pictures, tmp_path / "run", threshold=0.4)
    ((samples, losses),) = seen
    rewards = {
        tuple(latent.flatten()[:3].tolist()): r
        for (_, latent), r in zip(pictures.pairs, pictures.rewards, strict=True)
    }
    of = [rewards[tuple(latent.flatten()[:3].tolist())] for latent in samples.latents]
    assert sorted(set(of)) == [0.5, 0.9, 1.0]  # each of the kept ones, twice
    line = json.loads((out / "metrics.jsonl").read_text())
    expected = sum(r * float(loss) for r, loss in zip(of, losses, strict=True)) / 6
    assert line["loss"] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(UserError, match="other settings"):
        run(shapes_model, pictures, tmp_path / "run", threshold=0.1)


def test_a_threshold_may_be_each_prompts_own(
    shapes_model: Any, pictures: Rewarded, tmp_path: Path
) -> None:
    high = {"a red circle": 0.95, "a blue square": 0.6, "a green triangle": 0.99}
    run(shapes_model, pictures, tmp_path / "run", threshold=high.get)
    with pytest.raises(UserError, match="none of 4 pictures has a reward above its threshold"):
        run(shapes_model, pictures, tmp_path / "none", threshold=1.0)
