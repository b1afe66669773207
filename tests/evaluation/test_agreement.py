"""Rank correlation against its textbook form, and what the gate counts."""

import math

import pytest
import torch

from mitune.config.sampling import SamplerConfig
from mitune.evaluation.agreement import agree, gate, spearman
from mitune.worlds.shapes.prompts import prompts


def test_spearman_without_ties_is_the_textbook_formula():
    generator = torch.Generator().manual_seed(1)
    for n in (3, 10, 57):
        a, b = torch.randn(n, generator=generator), torch.randn(n, generator=generator)
        d = a.argsort().argsort() - b.argsort().argsort()
        expected = 1 - 6 * float(d.square().sum()) / (n * (n**2 - 1))
        assert spearman(a, b) == pytest.approx(expected)


def test_ties_share_their_mean_rank():
    # By hand: ranks (0, 1.5, 1.5, 3) and (0, 1, 2, 3).
    value = spearman(torch.tensor([0.0, 1.0, 1.0, 2.0]), torch.arange(4.0))
    assert value == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert math.isnan(spearman(torch.ones(3), torch.arange(3.0)))


def test_what_counts():
    """Pools in which the oracle sees no difference, and small ones, say nothing about the score."""
    values = [torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.ones(4), torch.tensor([0.0, 1.0])]
    right = agree("standard", 400, "all", values, values)
    assert right.prompts == 1
    assert (right.top1.mean, right.bottom1.mean, right.mean.mean) == (1.0, 0.0, 0.5)
    assert (right.spearman.mean, right.gain.mean) == (pytest.approx(1.0), 0.5)
    wrong = agree("standard", 400, "all", [-v for v in values], values)
    assert (wrong.spearman.mean, wrong.gain.mean) == (pytest.approx(-1.0), -0.5)


def test_the_gate_tells_every_estimator(shapes_model):
    said: list[str] = []
    table = gate(
        shapes_model,
        prompts("train")[:2],
        candidates=4,
        sampler=SamplerConfig(steps=8, guidance=1.0),
        seed=0,
        draws=2,
        t_mins=[-1, 400],
        say=said.append,
    )
    assert {(r.estimator, r.t_min, r.errors) for r in table} == {
        (estimator, t_min, errors)
        for estimator in ("trajectory", "orthogonal", "standard")
        for t_min in (-1, 400)
        for errors in ("all", "neglect", "binding")
    }
    assert len(said) == 1 + len(table)
