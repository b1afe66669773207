"""Sets that are built with pruning: exact skips, fits, audits, interruption, refusals."""

import json

import pytest
import torch

from mitune.config.pruning import PruneConfig
from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.methods.build import build_set
from mitune.selection.audit import is_audited
from mitune.selection.prune import for_run
from mitune.selection.steering import tell_audit
from mitune.worlds.shapes_v1.prompts import prompts

PROMPTS = prompts("train")[:12]
SHORT = SamplerConfig(steps=10, guidance=2.0, t_min=200)
SETTINGS = {
    "candidates": 6,
    "keep": 2,
    "sampler": SHORT,
    "estimator": "trajectory",
    "seed": 5,
    "slots": 9,
}
HALVING = PruneConfig(policy="halving", rungs=((3, 4), (6, 3)), audit=0.3)
THRESHOLD = PruneConfig(
    policy="threshold", rungs=((3, 2), (6, 1)), audit=0.3, confidence=0.8, calibration=3
)
DRAFT = PruneConfig(policy="draft", verify=3, draft_precision="bf16-mixed", audit=0.3)
ALL = pytest.mark.parametrize("prune", [HALVING, THRESHOLD, DRAFT], ids=lambda prune: prune.policy)


def rows(built):
    table = built.table(["prompt_index", "candidate", "score", "selected", "pruned", "terms"])
    return {(row["prompt_index"], row["candidate"]): row for row in table.to_pylist()}


@pytest.fixture(scope="module")
def whole(_exact, tmp_path_factory):
    """No step is skipped: every step counts, with the weights of t > 200 put on afterwards."""
    from dataclasses import replace

    from mitune.diffusion.schedule import Schedule

    out = tmp_path_factory.mktemp("whole")
    settings = SETTINGS | {"sampler": replace(SHORT, t_min=None)}
    built = build_set(_exact, PROMPTS, out / "set", **settings)
    weights = Schedule.from_diffusers(_exact.scheduler, 10, kind="ddpm").weights(t_min=200)
    terms = built.terms(range(len(PROMPTS)))
    return {p: (weights * pool[:, :, 0].double()).sum(1) for p, pool in terms.items()}


def test_steps_that_do_not_count_are_the_winners_alone(exact_model, tmp_path, whole):
    built = build_set(exact_model, PROMPTS, tmp_path / "set", **SETTINGS)
    summary = built.summary()
    assert (summary["kept"], summary["pruned"], summary["non_finite"]) == (24, 0, 0)
    assert built.audit() is None
    for (p, c), row in rows(built).items():
        assert row["score"] == pytest.approx(float(whole[p][c]), rel=1e-5)
        assert row["selected"] == (c in whole[p].topk(2).indices.tolist())
        assert len(row["terms"]) == (10 if row["selected"] else 8)


@ALL
def test_an_audited_set(exact_model, tmp_path, whole, prune):
    """What is kept is the best of what was not dropped; audited prompts are exact; and the audit
    says what the unpruned scores say."""
    built = build_set(exact_model, PROMPTS, tmp_path / "set", prune=prune, **SETTINGS)
    made = rows(built)
    drawn = [p for p, text in enumerate(PROMPTS) if is_audited(5, text, 0.3)]
    assert 0 < len(drawn) < len(PROMPTS)
    unpruned = set(drawn) | (set(range(3)) if prune.policy == "threshold" else set())
    assert built.summary()["pruned"] > 0
    assert built.summary()["kept"] == 24
    for p in range(len(PROMPTS)):
        own = [made[p, c] for c in range(6)]
        assert any(row["pruned"] for row in own) <= (p not in unpruned)
        alive = [c for c in range(6) if not own[c]["pruned"]]
        best = sorted(alive, key=lambda c: -float(whole[p][c]))[:2]
        assert sorted(best) == [c for c in range(6) if own[c]["selected"]]
        for c in alive:
            assert own[c]["score"] == pytest.approx(float(whole[p][c]), rel=1e-5)
    result = built.audit()
    steps = sum(len(row["terms"]) for row in made.values())
    assert result["steps_taken"] == pytest.approx(
        steps / (12 * 6 * 10) + (1 if prune is DRAFT else 0)
    )
    judged = [p for p in drawn if prune.policy != "threshold" or p >= 3]
    assert result["audited_prompts"] == result["audit"]["prompts"] == len(judged)
    assert 0 <= result["audit"]["recall_top1"]["mean"] <= 1
    assert "the best was kept in" in tell_audit(result)


@ALL
def test_interrupted_and_resumed_it_keeps_the_same(exact_model, tmp_path, prune):
    settings = SETTINGS | {"slots": 3 if prune is DRAFT else 9}  # two blocks of a draft
    once = build_set(exact_model, PROMPTS, tmp_path / "once", prune=prune, **settings)

    class Stop(Exception):
        pass

    def stop(done, total):
        if done > 66:
            raise Stop

    twice = tmp_path / "twice"
    with pytest.raises(Stop):
        build_set(exact_model, PROMPTS, twice, prune=prune, progress=stop, **settings)
    assert 0 < len(list((twice / "parts").glob("*.parquet"))) < 2
    again = build_set(exact_model, PROMPTS, twice, prune=prune, **settings)
    first, second = rows(once), rows(again)
    for key, row in first.items():
        assert (row["selected"], row["pruned"]) == (second[key]["selected"], second[key]["pruned"])
        assert row["score"] == pytest.approx(second[key]["score"], rel=1e-6)
    assert json.dumps(once.audit()["audited_prompts"]) == json.dumps(
        again.audit()["audited_prompts"]
    )


def test_a_draft_decides_who_is_made(exact_model, tmp_path):
    """Those with the best scores of the cheaper pass, and nobody else; of the others the set has
    the draft's score, and no step."""
    from mitune.engine.stream import generate

    built = build_set(exact_model, PROMPTS, tmp_path / "set", prune=DRAFT, **SETTINGS)
    drafted = {
        (c.prompt_index, c.index): c.score
        for c in generate(
            exact_model, PROMPTS, candidates=6, sampler=SHORT, seed=5, precision="bf16-mixed"
        )
    }
    drawn = [p for p, text in enumerate(PROMPTS) if is_audited(5, text, 0.3)]
    for p in range(len(PROMPTS)):
        own = {c: row for (prompt, c), row in rows(built).items() if prompt == p}
        made = [c for c in own if own[c]["terms"]]
        if p in drawn:
            assert made == list(range(6))
            continue
        best = sorted(own, key=lambda c: -drafted[p, c])[:3]
        assert sorted(best) == made == [c for c in own if not own[c]["pruned"]]
        for c in set(own) - set(made):
            assert own[c]["score"] == pytest.approx(drafted[p, c], rel=1e-2)
    result = built.audit()
    assert result["draft_steps_taken"] == 1.0
    assert result["audit"]["passes"] > 1.0
    assert "of which 100.0% as a draft" in tell_audit(result)


def test_fewer_steps_are_a_draft_too(exact_model, tmp_path):
    prune = PruneConfig(
        policy="draft", verify=2, draft_precision="float32", draft_steps=4, audit=0.0
    )
    built = build_set(exact_model, PROMPTS[:3], tmp_path / "set", prune=prune, **SETTINGS)
    assert built.audit()["draft_steps_taken"] == pytest.approx(0.4)
    assert sum(bool(row["terms"]) for row in rows(built).values()) == 6


def test_an_audit_that_is_bad_or_missing_is_said_loudly():
    interval = {"mean": 0.8, "low": 0.6, "high": 0.9}
    result = {
        "steps_taken": 0.5,
        "draft_steps_taken": 0.0,
        "audited_prompts": 20,
        "least_recall": 0.95,
        "audit": {"recall_top1": interval, "regret_nats": interval},
    }
    assert "WARNING: that is less often than 95%" in tell_audit(result)
    assert "WARNING" not in tell_audit(result | {"least_recall": 0.8})
    assert "WARNING: no prompt was drawn" in tell_audit(result | {"audit": None})


def test_a_resume_with_other_pruning_is_refused(exact_model, tmp_path):
    build_set(exact_model, PROMPTS[:2], tmp_path / "set", prune=HALVING, **SETTINGS)
    with pytest.raises(UserError, match="built otherwise: prune"):
        build_set(exact_model, PROMPTS[:2], tmp_path / "set", **SETTINGS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": "standard"}, "expected estimator trajectory"),
        ({"select": "random"}, "expected estimator trajectory and select mi"),
        ({"keep": 4}, "rungs 3:4 6:3: expected at least 4 candidates to go on"),
        ({"candidates": 4}, "and fewer than the pool's 4"),
        (
            {"prune": PruneConfig(policy="halving", rungs=((3, 4), (8, 3)))},
            "rungs 3:4 8:3: expected steps below 8, after which the score is complete",
        ),
        (
            {"prune": PruneConfig(policy="threshold", calibration=12)},
            "12 prompts of 6 candidates: expected more than the 12 prompts",
        ),
        ({"prune": DRAFT, "keep": 4}, "verify is 3: expected at least 4, the number to keep"),
        ({"prune": DRAFT, "candidates": 3}, "fewer than the pool's 3 candidates"),
        (
            {"prune": PruneConfig(policy="draft", draft_precision="float64", draft_steps=10)},
            "draft of 10 steps in float64 is as dear as what it is for, 10 steps in float64",
        ),
        ({"prune": PruneConfig(policy="draft", draft_steps=11)}, "draft of 11 steps in bf16-mixed"),
    ],
)
def test_what_cannot_be_pruned(exact_model, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        build_set(
            exact_model, PROMPTS, tmp_path / "set", **(SETTINGS | {"prune": HALVING} | changes)
        )
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "guessing"}, "choose one of halving, threshold, draft"),
        ({"verify": 0}, "verify is 0"),
        ({"draft_steps": 0}, "draft_steps is 0"),
        ({"rungs": ((5, 3), (4, 2))}, "rungs .* are not in order"),
        ({"draft_precision": "int4"}, "precision 'int4' is not known"),
        ({"audit": 1.5}, "audit is 1.5"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"calibration": 0}, "calibration is 0"),
        ({"rungs": ()}, "rungs"),
    ],
)
def test_bad_configurations(changes, message):
    with pytest.raises(UserError, match=message):
        PruneConfig(**({"policy": "halving"} | changes))


def test_rungs_follow_the_run_where_none_are_given():
    """Shares of the steps that count, and of the pool; a threshold looks at each tenth."""
    weights = torch.cat((torch.ones(30), torch.zeros(20))).double()
    run = {"weights": weights, "precision": "float32", "prompts": 20, "keep": 1}
    halving = PruneConfig(policy="halving")
    assert for_run(halving, candidates=50, **run).rungs == ((15, 20), (21, 10), (24, 5))
    assert for_run(halving, candidates=4, **run).rungs == ((15, 2), (21, 1))
    found = for_run(PruneConfig(policy="threshold"), candidates=50, **run).rungs
    assert [step for step, _ in found] == [3, 6, 9, 12, 15, 18, 21, 24, 27]


def test_terms_come_back_as_they_were(exact_model, tmp_path):
    built = build_set(exact_model, PROMPTS[:3], tmp_path / "set", **SETTINGS)
    found = built.terms([2, 0])
    assert list(found) == [0, 2]
    table = built.table(["prompt_index", "candidate", "terms", "cross_terms"]).to_pylist()
    for row in table:
        if row["prompt_index"] in found:
            pool = found[row["prompt_index"]][row["candidate"]]
            n = len(row["terms"])
            assert pool[:n, 0].tolist() == row["terms"]
            assert pool[:n, 1].tolist() == row["cross_terms"]
            assert bool(torch.isnan(pool[n:]).all())
    assert built.terms([]) == {}
