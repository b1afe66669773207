"""What do methods change that act while a picture is sampled?"""

import time
from functools import partial
from typing import Any

from mitune.core import progress
from mitune.evaluation.seeds import each_seed, processes
from mitune.evaluation.studies.comparison import Files, pictures, tell_comparison
from mitune.evaluation.studies.drawn import Drawer
from mitune.evaluation.studies.plan import Plan
from mitune.methods.sampling.attend_and_excite import AttendAndExcite
from mitune.methods.sampling.information import InformationGuidance
from mitune.methods.sampling.sample import Method
from mitune.methods.sampling.structured import StructuredGuidance

STRENGTHS = (0.003, 0.01, 0.03)
"""Of guidance by information."""


def drawers(plan: Plan) -> dict[str, Drawer]:
    """The methods that are compared with plain guidance, by name."""
    methods: dict[str, Method] = {
        "Attend-and-Excite": AttendAndExcite,
        "Structured Diffusion Guidance": StructuredGuidance,
        **{
            f"information {strength:g}": partial(
                InformationGuidance, strength=strength, rests=plan.of.rests
            )
            for strength in STRENGTHS
        },
    }
    # The names tell all settings that differ.
    return {name: Drawer(method=method, settings=name) for name, method in methods.items()}


def run(plan: Plan) -> dict[str, Any]:
    """Make what is missing, then the tables, the data and the picture, in the plan's folder."""
    start = time.perf_counter()
    count = processes(plan.processes, plan.seeds)
    files = each_seed(partial(_repeat, plan), plan.seeds, count)
    question = "What do methods at sampling change?"
    controls: dict[str, str | None] = dict.fromkeys(drawers(plan), None)
    return tell_comparison(plan, "sampling", question, files, controls, start)


def _repeat(plan: Plan, seed: int) -> Files:
    progress.quiet_libraries()
    return pictures(plan, plan.load(), seed, (plan.compared_at,), drawers(plan))
