"""Policies on their own, in the engine, and repeated on what an unpruned run recorded."""

import math

import pytest
import torch
from counting_world import run

from mitune.core.errors import UserError
from mitune.engine.engine import counted_steps
from mitune.engine.policies import (
    Chain,
    DifferenceHalving,
    Finish,
    Halving,
    RandomHalving,
    Threshold,
    Unpruned,
    best,
    fit_threshold,
)
from mitune.selection.audit import audit, is_audited, partial_scores, replay, wilson

RUNGS = ((10, 8), (20, 4), (30, 2))
PROMPTS, POOL = 7, 16


@pytest.fixture(scope="module")
def whole():
    """A run that nobody pruned, and the terms of its pools."""
    found, weights, _ = run(PROMPTS, POOL)
    terms = [torch.stack([found[p, c].terms for c in range(POOL)]) for p in range(PROMPTS)]
    return found, weights, terms


def policies(terms, weights):
    partial = [partial_scores(pool, weights) for pool in terms]
    fitted = fit_threshold(partial, (10, 20, 30), keep=2, confidence=0.9)
    finish = Finish(step=counted_steps(weights), keep=2)
    return {
        "halving": Halving(at=RUNGS),
        "difference": DifferenceHalving(at=RUNGS),
        "random": RandomHalving(at=RUNGS),
        "threshold": fitted,
        "finish": finish,
        "halving and finish": Chain(policies=(Halving(at=RUNGS), finish)),
    }


def test_the_best_and_ties_and_what_is_not_finite():
    scores = torch.tensor([1.0, math.nan, 3.0, 3.0, math.inf, 2.0])
    assert best(scores, 1) == [2]
    assert best(scores, 2) == [2, 3]
    assert best(scores, 3) == [2, 3, 5]
    assert best(scores, 5) == [0, 1, 2, 3, 5]
    assert best(scores, 9) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("slots", [3, 64])
@pytest.mark.parametrize(
    "name", ["halving", "difference", "random", "threshold", "finish", "halving and finish"]
)
def test_the_engine_does_what_a_replay_says(whole, name, slots):
    """Every candidate comes out once; who is kept, and what it cost, is what the terms of the
    unpruned run foretell; and who is kept is untouched by the pruning of others, to the bit."""
    found, weights, terms = whole
    policy = policies(terms, weights)[name]
    pruned, _, stats = run(PROMPTS, POOL, slots=slots, policy=policy)
    assert pruned.keys() == found.keys()
    foretold = [replay(policy, pool, weights, 2) for pool in terms]
    assert stats.steps == sum(made.steps for made in foretold) < PROMPTS * POOL * 50
    for p, made in enumerate(foretold):
        finished = [c for c in range(POOL) if pruned[p, c].finished]
        assert set(made.kept) <= set(finished)
        order = sorted(finished, key=lambda c: (-pruned[p, c].score, c))
        assert order[:2] == made.kept
    for key, candidate in pruned.items():
        taken = candidate.steps
        assert torch.equal(candidate.terms[:taken], found[key].terms[:taken])
        assert bool(candidate.terms[taken:].isnan().all())
        assert candidate.pruned == (taken < counted_steps(weights))
        if not candidate.pruned:
            assert candidate.score == found[key].score
        if candidate.finished:
            assert torch.equal(candidate.latent, found[key].latent)


def test_partial_scores_are_the_engines_to_the_bit(whole):
    found, weights, terms = whole
    for p, pool in enumerate(terms):
        after = partial_scores(pool, weights)
        assert after[:, -1].tolist() == [found[p, c].score for c in range(POOL)]


def test_nothing_is_skipped_that_counts(whole):
    """Three of 50 steps have t <= 50: they are left to the winners, and change nothing else."""
    found, weights, _ = whole
    counted = counted_steps(weights)
    assert counted == 47
    exact, _, stats = run(PROMPTS, POOL, policy=Finish(step=counted, keep=1))
    assert stats.steps == PROMPTS * (47 * POOL + 3)
    assert {k: c.score for k, c in exact.items()} == {k: c.score for k, c in found.items()}
    for p in range(PROMPTS):
        best_one = max(range(POOL), key=lambda c: found[p, c].score)
        assert [c for c in range(POOL) if exact[p, c].finished] == [best_one]


@pytest.mark.parametrize(
    "policy", [None, Finish(step=47, keep=1), Halving(at=((10, 25), (20, 12), (30, 6), (40, 3)))]
)
def test_the_slots_stay_full(policy):
    """200 prompts of 50 candidates."""
    found, _, stats = run(200, 50, policy=policy)
    assert len(found) == 10_000
    assert stats.slots == 64
    assert stats.rows == 2 * 64 * stats.ticks
    assert stats.occupancy >= 0.98


@pytest.mark.parametrize(
    ("rungs", "survivors", "message"),
    [
        ((3,), [0, 0, 1], "got survivors .* of 4 at rung 3, expected ascending positions"),
        ((3,), [], "expected ascending positions, at least one"),
        ((3,), [1, 0], "expected ascending"),
        ((3,), [-1], "expected ascending"),
        ((3,), [4], "expected ascending"),
        ((0,), [0], "got rungs .0,., expected 1 to 5"),
        ((6,), [0], "got rungs .6,., expected 1 to 5"),
    ],
)
def test_a_policy_that_cannot_be_followed(rungs, survivors, message):
    class Policy:
        def __init__(self):
            self.rungs = rungs

        def survivors(self, rung, scores, terms):
            return survivors

    with pytest.raises(ValueError, match=message):
        run(2, 4, steps=6, slots=3, policy=Policy())


def test_an_unpruned_pool_beside_pruned_ones(whole):
    """A policy may differ from prompt to prompt, as the audit share needs."""
    from counting_world import encode, engine

    from mitune.engine.prompt_encoder import PromptEncoder
    from mitune.engine.stream import pool

    found, _, _ = whole
    texts = [str(p) for p in range(PROMPTS)]
    own, _, _ = engine(50, 8)
    choose = {3: Unpruned()}
    stream = own.run(
        pool(texts, POOL),
        PromptEncoder(encode, texts),
        lambda p: choose.get(p, Halving(at=((5, 1),))),
    )
    made = {(c.prompt_index, c.index): c for c in stream}
    for p in range(PROMPTS):
        assert sum(made[p, c].finished for c in range(POOL)) == (POOL if p == 3 else 1)
    assert all(made[3, c].score == found[3, c].score for c in range(POOL))


def test_an_audit_of_a_policy_that_loses_nothing_and_of_one_that_loses(whole):
    _, weights, terms = whole
    exact = audit(Finish(step=47, keep=2), terms, weights, 2)
    assert (exact.prompts, exact.recall_top1.mean, exact.recall_topk.mean) == (PROMPTS, 1.0, 1.0)
    assert exact.regret_nats.mean == 0
    assert exact.passes == pytest.approx((47 * POOL + 3 * 2) / (50 * POOL))
    lost = audit(RandomHalving(at=((1, 1),)), terms, weights, 1)
    assert lost.recall_top1.mean < 0.5
    assert lost.regret_nats.mean > 0
    assert lost.passes == pytest.approx((POOL + 49) / (50 * POOL))
    truth = [partial_scores(pool, weights)[:, -1] for pool in terms]
    chosen = [replay(RandomHalving(at=((1, 1),)), pool, weights, 1).kept[0] for pool in terms]
    regret = [float(s.max() - s[c]) for s, c in zip(truth, chosen, strict=True)]
    assert lost.regret_nats.mean == pytest.approx(sum(regret) / PROMPTS, rel=1e-5)


def test_a_threshold_keeps_who_can_still_win_at_the_stated_confidence():
    """Scores that follow the model exactly: F = S + residual, sd 1 at the rung."""
    generator = torch.Generator().manual_seed(0)
    so_far = 2 * torch.randn(400, 30, generator=generator)
    rest = torch.randn(400, 30, generator=generator)
    partial = torch.stack([so_far, so_far + rest], dim=2)
    fitted = fit_threshold(list(partial), (1,), keep=1, confidence=0.99)
    (step, slope, spread) = fitted.at[0]
    assert (step, slope) == (1, pytest.approx(1, abs=0.01))
    assert spread == pytest.approx(1, abs=0.02)
    terms = torch.zeros(30, 1, 2)
    kept = [fitted.survivors(1, pool, terms) for pool in so_far]
    hit = [int(final.argmax()) in left for final, left in zip(so_far + rest, kept, strict=True)]
    assert sum(hit) / len(hit) >= 0.99
    assert sum(map(len, kept)) / len(kept) < 20
    bar = float(so_far[0].max())
    reach = 2.3263 * math.sqrt(2) * spread
    assert kept[0] == [i for i, s in enumerate(so_far[0].tolist()) if slope * (bar - s) <= reach]


def test_a_threshold_that_can_tell_nothing_keeps_everybody():
    nothing = Threshold(at=((5, -0.1, 1.0),), keep=1, confidence=0.9)
    scores = torch.tensor([1.0, 5.0, 3.0])
    assert nothing.survivors(5, scores, torch.zeros(3, 5, 2)) == [0, 1, 2]


def test_the_audit_share_is_drawn_and_repeats():
    texts = [f"prompt {i}" for i in range(4000)]
    drawn = [is_audited(1, text, 0.1) for text in texts]
    assert 300 < sum(drawn) < 500
    assert drawn == [is_audited(1, text, 0.1) for text in texts]
    assert drawn != [is_audited(2, text, 0.1) for text in texts]
    assert not any(is_audited(1, text, 0.0) for text in texts)
    assert all(is_audited(1, text, 1.0) for text in texts)


def test_wilsons_interval():
    """Against the textbook's figures for 9 of 10, and at the ends."""
    interval = wilson(9, 10)
    assert (interval.low, interval.high) == (
        pytest.approx(0.5958, abs=1e-4),
        pytest.approx(0.9821, abs=1e-4),
    )
    assert wilson(20, 20).low == pytest.approx(0.8389, abs=1e-4)
    assert (wilson(20, 20).high, wilson(0, 5).low) == pytest.approx((1.0, 0.0))


@pytest.mark.parametrize(
    "at", [(), ((0, 5),), ((10, 0),), ((10, 5), (10, 3)), ((10, 5), (20, 6)), ((20, 5), (10, 3))]
)
def test_rungs_out_of_order(at):
    with pytest.raises(UserError, match="rungs"):
        Halving(at=at)


@pytest.mark.parametrize("confidence", [0.2, 1.0])
def test_a_confidence_out_of_range(confidence):
    with pytest.raises(UserError, match="confidence"):
        Threshold(at=((1, 1.0, 1.0),), keep=1, confidence=confidence)
