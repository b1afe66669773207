"""Rank correlations against their textbook forms."""

import itertools
import math

import pytest
import torch

from mitune.evaluation.correlation import kendall, spearman


def test_spearman_without_ties_is_the_textbook_formula() -> None:
    generator = torch.Generator().manual_seed(1)
    for n in (3, 10, 57):
        a, b = torch.randn(n, generator=generator), torch.randn(n, generator=generator)
        d = a.argsort().argsort() - b.argsort().argsort()
        expected = 1 - 6 * float(d.square().sum()) / (n * (n**2 - 1))
        assert spearman(a, b) == pytest.approx(expected)


def test_ties_share_their_mean_rank() -> None:
    # By hand: ranks (0, 1.5, 1.5, 3) and (0, 1, 2, 3).
    value = spearman(torch.tensor([0.0, 1.0, 1.0, 2.0]), torch.arange(4.0))
    assert value == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_kendall_counts_pairs_and_leaves_ties_out() -> None:
    a, b = torch.tensor([0.0, 1.0, 1.0, 2.0, 5.0]), torch.tensor([1.0, 0.0, 2.0, 3.0, 3.0])
    pairs = list(itertools.combinations(range(5), 2))
    signs = [float(torch.sign(a[i] - a[j]) * torch.sign(b[i] - b[j])) for i, j in pairs]
    untied = [sum(float(x[i]) != float(x[j]) for i, j in pairs) for x in (a, b)]
    assert kendall(a, b) == pytest.approx(sum(signs) / math.sqrt(untied[0] * untied[1]))


def test_what_does_not_vary_correlates_with_nothing() -> None:
    for measure in (spearman, kendall):
        assert math.isnan(measure(torch.ones(3), torch.arange(3.0)))
