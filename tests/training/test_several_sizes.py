"""Pairs of pictures of several sizes in one batch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sdxl_pipeline import sdxl_pipeline
from tiny_parts import TEXTS, furthest, predict

import mitune
from mitune.adapters import adapter
from mitune.core.errors import UserError
from mitune.training.batches import Batches

CONFIG = mitune.TuneConfig(
    rank=2, alpha=2, batch=6, micro_batch=2, iterations=2, lr=1e-2, eps=1e-4, caption_dropout=0.3
)
SIZES = (8, 8), (4, 16), (10, 6)


class Pairs:
    """A set of pictures of three sizes."""

    settings: dict[str, Any] = {}  # noqa: RUF012

    def selected(self) -> list[tuple[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(0)
        return [
            (TEXTS[number % 2], torch.randn(4, *SIZES[number % 3], generator=generator))
            for number in range(6)
        ]


def model() -> Any:
    return mitune.load(sdxl_pipeline())


def batches(config: mitune.TuneConfig = CONFIG) -> Batches:
    return Batches(model(), Pairs().selected(), config)


def test_each_pass_has_one_size_and_its_conditioning() -> None:
    found = list(batches(replace(CONFIG, caption_dropout=0.0)).step(0))
    assert {tuple(b.latents.shape[2:]) for b in found} == set(SIZES)
    assert sum(len(b.t) for b in found) == CONFIG.batch
    for batch in found:
        height, width = (8 * side for side in batch.latents.shape[2:])
        expected = torch.tensor([height, width, 0, 0, height, width])
        assert torch.equal(batch.cond["time_ids"], expected.float().expand(len(batch.t), 6))


def test_every_position_has_the_samples_that_it_has_in_any_micro_batch() -> None:
    def rows(micro_batch: int) -> list[bytes]:
        return sorted(
            torch.cat([b.latents[i].flatten(), b.noise[i].flatten(), b.t[i : i + 1]])
            .numpy()
            .tobytes()
            for b in batches().step(3, micro_batch)
            for i in range(len(b.t))
        )

    assert rows(1) == rows(2) == rows(6)
    assert len(set(rows(1))) == CONFIG.batch


@pytest.mark.parametrize("joint", [None, 1e-3], ids=["unet", "text encoders too"])
def test_the_gradient_is_pefts_in_any_micro_batch(tmp_path: Path, joint: float | None) -> None:
    runs = []
    for number, options in enumerate(({"gradient": "peft", "micro_batch": 1}, {})):
        own = model()
        config = replace(CONFIG, text_encoder_lr=joint)
        out = mitune.tune(own, Pairs(), tmp_path / str(number), config, **options)
        adapter.load(own, out)
        runs.append(predict(own))
    assert furthest(runs[1], runs[0]) < 1e-4


def test_a_size_that_is_no_bucket_is_refused() -> None:
    with pytest.raises(UserError, match="has a latent of shape"):
        Batches(model(), [("a red circle", torch.zeros(4, 16, 16))], CONFIG)
