"""The studies, by name; most ask what a table of the paper asks (Wang et al.)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from mitune.evaluation.rules import Rule, every_rule
from mitune.evaluation.studies import agreement, maps, methods, sampling
from mitune.evaluation.studies.arm import Arm
from mitune.evaluation.studies.baseline import RANDOM, baseline, random_of
from mitune.evaluation.studies.comparison import ArmStudy, run
from mitune.evaluation.studies.plan import Plan

TEXT_LR = 0.05
"""Learning rate of the text encoder divided by that of the denoiser: 5e-6 / 1e-4, as in the
examples of diffusers."""


def _against_random(arms: Sequence[Arm], control: Arm) -> list[Arm]:
    return [*arms, random_of(control)]


def _selection(plan: Plan) -> list[Arm]:
    one = baseline(plan)
    return _against_random([one], one)


def _estimators(plan: Plan) -> list[Arm]:
    one = baseline(plan)
    rules = every_rule(agreement.T_MINS)
    return _against_random([replace(one, name=str(rule), rule=rule) for rule in rules], one)


RATIOS = ((7, 50), (1, 30), (1, 50), (1, 100), (1, 500))
"""Kept of the pool, Table 6; those beyond the plan's candidates are left out."""


def _ratios(plan: Plan) -> list[Arm]:
    one = baseline(plan)
    arms = []
    for keep, candidates in RATIOS:
        if candidates <= plan.candidates:
            control = random_of(replace(one, keep=keep, candidates=candidates), f"{RANDOM} {keep}")
            name = f"{keep} of {candidates}"
            mine = replace(one, name=name, keep=keep, candidates=candidates, control=control.name)
            arms += [mine, control]
    # A random choice does not depend on the pool's size.
    return list({arm.name: arm for arm in arms}.values())


def _paired(arms: Mapping[str, Arm]) -> list[Arm]:
    """The arms under these names, each followed by a control of its own: what differs between the
    arms may change what random candidates do too."""
    found = []
    for name, arm in arms.items():
        control = f"{RANDOM}, {name}"
        mine = replace(arm, name=name, control=control)
        found += [mine, random_of(mine, control)]
    return found


def _kept(plan: Plan) -> list[Arm]:
    one = baseline(plan)
    numbers = [keep for keep in (1, 2, 4, 8, 16) if keep <= plan.candidates]
    return _paired({f"keep {keep}": replace(one, keep=keep) for keep in numbers})


def _guidance(plan: Plan) -> list[Arm]:
    one = baseline(plan)
    return _paired({f"pool at {g:g}": replace(one, guidance=g) for g in agreement.GUIDANCE})


def _tuned(one: Arm, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Arm]:
    """Arms that differ in the settings of the training, by name."""
    return {
        name: replace(one, name=name, tuning=replace(one.tuning, **change))
        for name, change in changes.items()
    }


def _dropout(plan: Plan) -> list[Arm]:
    changes = {f"dropout {share:g}": {"caption_dropout": share} for share in (0.0, 0.1, 0.3)}
    return _paired(_tuned(baseline(plan), changes))


FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the preset's learning rate."""


def _strength(plan: Plan) -> list[Arm]:
    lr = plan.tuning.lr
    changes = {f"lr x {factor:g}": {"lr": factor * lr} for factor in FACTORS}
    return _paired(_tuned(baseline(plan), changes))


def _loss(plan: Plan) -> list[Arm]:
    one = baseline(plan)
    changes = {
        f"MI weight {weight:g}": {"mi_weight": weight} for weight in (0.0, 0.003, 0.01, 0.03)
    }
    return _against_random(list(_tuned(one, changes).values()), one)


def _times(plan: Plan) -> list[Arm]:
    one = baseline(plan)
    assert one.rule is not None
    arms = []
    for (start, end), least in product(
        ((0, 1000), (400, 1000), (500, 1000), (0, 500)), agreement.T_MINS
    ):
        name = f"train {start}-{end}, score t>{least:g}"
        tuning = replace(one.tuning, t_range=(start, end))
        arms.append(replace(one, name=name, tuning=tuning, rule=Rule(one.rule.score, least)))
    return _against_random(arms, one)


def _trained(plan: Plan) -> list[Arm]:
    one = baseline(plan)
    cross = tuple(f"attn2.{name}" for name in one.tuning.targets)
    changes: Mapping[str, Mapping[str, Any]] = {
        "dora": {},
        "lora": {"method": "lora"},
        "dora, rank 8": {"rank": 8, "alpha": 8},
        "dora, cross-attention": {"targets": cross},
        "dora, with text encoder": {"text_encoder_lr": TEXT_LR * one.tuning.lr},
        "dora, with text encoder, equal lr": {"text_encoder_lr": one.tuning.lr},
    }
    return _against_random(list(_tuned(one, changes).values()), one)


def _rounds(plan: Plan) -> list[Arm]:
    one = replace(baseline(plan), rounds=3)
    return _against_random([one], one)


def _real(plan: Plan) -> list[Arm]:
    one = baseline(plan)
    arms = [one]
    for share, same in product((0.25, 0.5, 0.9), (False, True)):
        name = f"real {share:g}, {'same size' if same else 'added'}"
        arms.append(replace(one, name=name, real_share=share, same_size=same))
    return _against_random(arms, one)


def _star(plan: Plan) -> list[Arm]:
    one = replace(baseline(plan), shown="spatial")
    drawings = replace(one, name="tuned on drawings", rounds=0, control=None)
    star = replace(one, name="drawings, then mi", control=f"drawings, then {RANDOM}")
    control = random_of(star, f"drawings, then {RANDOM}")
    return [star, control, drawings, replace(baseline(plan), control=None)]


ARMS = (
    ArmStudy(
        name="selection",
        question="Does tuning on the best by MI align, against the base and random selection?",
        arms=_selection,
    ),
    ArmStudy(
        name="estimators",
        question="Which estimator selects best?",
        arms=_estimators,
    ),
    ArmStudy(
        name="ratio",
        question="How many of how large a pool (Table 6)?",
        arms=_ratios,
    ),
    ArmStudy(
        name="keep",
        question="How many of one pool?",
        arms=_kept,
    ),
    ArmStudy(
        name="real",
        question="What does a share of real pictures change (Table 7)?",
        arms=_real,
    ),
    ArmStudy(
        name="trained",
        question="What should be trained (Table 8)?",
        arms=_trained,
    ),
    ArmStudy(
        name="rounds",
        question="What do further rounds add?",
        arms=_rounds,
    ),
    ArmStudy(
        name="times",
        question="Which timesteps should be trained on, and which count for the score?",
        arms=_times,
    ),
    ArmStudy(
        name="guidance",
        question="At which guidance should pools be drawn, for which guidance of use?",
        arms=_guidance,
        guidances=(1.0, 3.0, 5.0, 7.5),
    ),
    ArmStudy(
        name="dropout",
        question="Should the unconditional branch follow (caption dropout)?",
        arms=_dropout,
    ),
    ArmStudy(
        name="strength",
        question="How strongly should be trained?",
        arms=_strength,
    ),
    ArmStudy(
        name="loss",
        question="What does a term for the mutual information in the loss change (section 5)?",
        arms=_loss,
    ),
    ArmStudy(
        name="star",
        question="What does MI add to a base that was tuned for spatial prompts (MI-Tune *)?",
        arms=_star,
    ),
)

STUDIES: Mapping[str, Callable[[Plan], dict[str, Any]]] = {
    "agreement": agreement.run,
    **{study.name: partial(run, study) for study in ARMS},
    "sampling": sampling.run,
    "methods": methods.run,
    "maps": maps.run,
}
