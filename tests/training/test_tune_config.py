import math
from typing import Any

import pytest
import torch
from diffusers.optimization import get_scheduler

from mitune.config.training import TuneConfig
from mitune.core.errors import UserError


def test_the_defaults_are_the_papers_table_5() -> None:
    config = TuneConfig()
    assert (config.method, config.rank, config.alpha) == ("dora", 32, 32)
    assert config.targets == ("to_q", "to_k", "to_v", "to_out.0")
    assert config.lr_scheduler == "constant"
    assert (config.text_encoder_lr, config.prior_weight) == (None, 0)
    assert (config.lr, config.betas, config.eps) == (1e-4, (0.9, 0.999), 1e-8)
    assert (config.weight_decay, config.clip) == (1e-2, 1.0)
    assert (config.batch, config.iterations, config.t_range) == (400, 300, (500, 1000))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "adalora"),
        ("lr_scheduler", "cosine"),
        ("rank", 0),
        ("batch", 0),
        ("micro_batch", -1),
        ("iterations", 0),
        ("checkpoint_every", 0),
        ("alpha", 0.0),
        ("lr", math.nan),
        ("lr", math.inf),
        ("text_encoder_lr", 0.0),
        ("text_encoder_lr", math.nan),
        ("prior_weight", -1.0),
        ("prior_weight", math.inf),
        ("eps", 0.0),
        ("clip", 0.0),
        ("clip", math.nan),
        ("weight_decay", -1.0),
        ("betas", (0.9, 1.0)),
        ("betas", (0.9,)),
        ("t_range", (500, 500)),
        ("t_range", (-1, 500)),
        ("targets", ()),
        ("targets", ("to_q", "")),
        ("seed", -1),
        ("seed", 2**63),
        ("caption_dropout", 1.5),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=name) as caught:
        TuneConfig(**{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["constant", "linear"])
def test_the_learning_rate_is_that_of_diffusers(name: Any) -> None:
    config = TuneConfig(lr=3e-3, lr_scheduler=name, iterations=7)
    optimizer = torch.optim.AdamW([torch.zeros(1)], lr=config.lr)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=0, num_training_steps=7)
    for step in range(7):
        assert config.lr_at(step) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_the_ends_of_the_ranges_are_in() -> None:
    TuneConfig(clip=math.inf, weight_decay=0.0, t_range=(0, 1), seed=2**63 - 1, caption_dropout=1.0)
