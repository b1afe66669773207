"""What do methods change that act while a picture is sampled, at what price?"""

import time
from functools import partial
from pathlib import Path
from typing import Any

from mitune.core import progress
from mitune.evaluation.seeds import each_seed, processes
from mitune.evaluation.studies.compared import BASE, DRAWINGS
from mitune.evaluation.studies.comparison import Files, tell_comparison
from mitune.evaluation.studies.drawn import Way, stored_drawings, stored_pictures
from mitune.evaluation.studies.plan import Plan
from mitune.methods.sampling.attend_and_excite import AttendAndExcite
from mitune.methods.sampling.information import InformationGuidance
from mitune.methods.sampling.structured import StructuredGuidance

STRENGTHS = (0.003, 0.01, 0.03)
"""Of guidance by information."""


def ways(plan: Plan) -> list[Way]:
    """The methods that are compared with plain guidance."""
    by_information = [
        Way(
            name=f"information {strength:g}",
            method=partial(InformationGuidance, strength=strength, rests=plan.of.rests),
        )
        for strength in STRENGTHS
    ]
    return [
        Way(name="Attend-and-Excite", method=AttendAndExcite),
        Way(name="Structured Diffusion Guidance", method=StructuredGuidance),
        *by_information,
    ]


def run(plan: Plan) -> dict[str, Any]:
    """Make what is missing, then the tables, the data and the picture, in the plan's folder."""
    start = time.perf_counter()
    count = processes(plan.processes, plan.seeds)
    files = each_seed(partial(_repeat, plan), plan.seeds, count)
    question = "What do methods at sampling change?"
    controls: dict[str, str | None] = dict.fromkeys((way.name for way in ways(plan)), None)
    return tell_comparison(plan, "sampling", question, files, controls, start)


def _repeat(plan: Plan, seed: int) -> Files:
    progress.quiet_libraries()
    model = plan.load()
    test, number = plan.texts("test"), 1_000_000 + seed
    folder, guidance = plan.out / f"seed-{seed}", plan.compared_at
    found: dict[str, Path] = {}
    for name, way in {BASE: None, **{way.name: way for way in ways(plan)}}.items():
        found[name] = folder / f"{name}.parquet"
        stored_pictures(
            found[name],
            plan.of,
            model,
            test,
            images=plan.images,
            sampler=plan.sampler(guidance),
            seed=number,
            method=way,
        )
    found[DRAWINGS] = folder / f"{DRAWINGS}.parquet"
    stored_drawings(found[DRAWINGS], plan.of, model, test, images=plan.images, seed=number)
    return {guidance: found}
