"""The arm that studies vary, and its control."""

from dataclasses import replace

from mitune.config.preset import Preset
from mitune.evaluation.rules import Rule
from mitune.evaluation.studies.arm import Arm
from mitune.evaluation.studies.plan import Plan

RANDOM = "random"
"""Name of the control: random candidates of the same pools."""


def rule_of(preset: Preset) -> Rule:
    """That of a preset."""
    least = preset.sampler.t_min
    assert preset.estimator != "rfmi"  # of a flow; the worlds' models are diffusion models
    return Rule(preset.estimator, -1.0 if least is None else least)


def baseline(plan: Plan) -> Arm:
    """Selection by the preset's rule."""
    preset = plan.of.preset
    return Arm(
        name="mi",
        rule=rule_of(preset),
        guidance=plan.pool_guidance,
        candidates=plan.candidates,
        keep=plan.keep or min(preset.keep, plan.candidates),
        tuning=plan.tuning,
        control=RANDOM,
    )


def random_of(arm: Arm, name: str = RANDOM) -> Arm:
    """The control of an arm: the same with random candidates."""
    return replace(arm, name=name, rule=None, control=None)
