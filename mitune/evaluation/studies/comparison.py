"""Run a study that compares arms."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mitune.core import progress
from mitune.evaluation.rules import Rule
from mitune.evaluation.seeds import each_seed, processes
from mitune.evaluation.studies.arm import Arm
from mitune.evaluation.studies.compared import BASE, DRAWINGS, Row, markdown, rows
from mitune.evaluation.studies.drawn import Drawer, stored_drawings, stored_pictures
from mitune.evaluation.studies.plan import Plan
from mitune.evaluation.studies.plot import plot
from mitune.evaluation.studies.pools import PoolPlan, Pools
from mitune.evaluation.studies.shown import show_ranking, show_tuned
from mitune.evaluation.studies.stored import write
from mitune.evaluation.studies.told import tell
from mitune.evaluation.studies.tuned import Workshop
from mitune.evaluation.studies.verdicts import verdicts
from mitune.models.protocol import LatentModel

Files = Mapping[float, Mapping[str, Path]]
"""Of one seed: by guidance of use and model the file of its judged pictures."""

_TEST = 1_000_000
"""Added to the seeds of test pictures, so that they share no noise with pools."""


@dataclass(frozen=True, kw_only=True)
class ArmStudy:
    """A study that compares arms.

    Attributes:
        name: as the command line takes it.
        question: one sentence.
        arms: what is compared, for a plan.
        guidances: at which all are compared; empty: the plan's one.
    """

    name: str
    question: str
    arms: Callable[[Plan], Sequence[Arm]]
    guidances: tuple[float, ...] = ()

    def compared_at(self, plan: Plan) -> tuple[float, ...]:
        """The guidances of the comparison: the one that the plan gives, or the study's own."""
        own = self.guidances if plan.use_guidance is None else ()
        return own or (plan.compared_at,)


def run(study: ArmStudy, plan: Plan) -> dict[str, Any]:
    """Make what is missing, then the tables, the data and the picture, in the plan's folder."""
    start = time.perf_counter()
    count = processes(plan.processes, plan.seeds)
    files = each_seed(partial(_repeat, study, plan, alone=count == 1), plan.seeds, count)
    controls = controlled(study.arms(plan))
    return tell_comparison(plan, study.name, study.question, files, controls, start)


def tell_comparison(
    plan: Plan,
    name: str,
    question: str,
    files: Sequence[Files],
    controls: Mapping[str, str | None],
    start: float,
    after: str = "",
) -> dict[str, Any]:
    """The tables, the data and the picture of what each seed's files hold, in the plan's folder;
    they are printed too.

    Args:
        plan: of the study.
        name, question: of the study.
        files: of each seed.
        controls: as for ``compared.rows``.
        start: of the study, by ``time.perf_counter``.
        after: Markdown below the tables.
    """
    found: list[Row] = []
    parts = []
    for guidance in files[0]:
        tables = [{n: pq.read_table(path) for n, path in seed[guidance].items()} for seed in files]
        found += rows(guidance, tables, controls, plan.images)
        parts += [
            _labelled(table, guidance, model, seed)
            for seed, each in enumerate(tables)
            for model, table in each.items()
        ]
    write(plan.out / "pictures.parquet", pa.concat_tables(parts))
    said = "".join(f"* {line}\n" for line in verdicts(found))
    table = f"{question}\n\n{markdown(found)}\n{said}{after}"
    print(table)
    if not plot(found, question, plan.out / "plot.png"):
        print("no picture: pip install matplotlib for one")
    seconds = time.perf_counter() - start
    return tell(plan, name, table, [row.flat() for row in found], seconds)


def controlled(arms: Sequence[Arm]) -> dict[str, str | None]:
    """For everything that is compared the name of its control: of a round, the control's own round
    of that number, or its last."""
    of = {arm.name: arm.names for arm in arms}
    found: dict[str, str | None] = {}
    for arm in arms:
        control = of[arm.control] if arm.control is not None else [None]
        for number, name in enumerate(arm.names):
            found[name] = control[min(number, len(control) - 1)]
    return found


def _labelled(table: pa.Table, guidance: float, model: str, seed: int) -> pa.Table:
    kept = table.select(["prompt", "category", "graded", "strict"]).replace_schema_metadata()
    for name, value in (("model", model), ("guidance", guidance), ("seed", seed)):
        kept = kept.add_column(0, name, pa.array([value] * len(kept)))
    return kept


def _repeat(study: ArmStudy, plan: Plan, seed: int, *, alone: bool) -> Files:
    """One seed: pools, tuning, pictures. ``alone``: no other seed runs at the same time."""
    progress.quiet_libraries()
    model = plan.load()
    with workshop(plan, model, seed, alone=alone) as shop:
        adapters = _adapters(study, plan, shop)
    drawers = {name: Drawer(adapter=path) for name, path in adapters.items()}
    files = pictures(plan, model, seed, study.compared_at(plan), drawers)
    if seed == 0:
        drawn, first = files[study.compared_at(plan)[0]], next(iter(adapters))
        show_tuned(model, drawn[BASE], drawn[first], plan.images, plan.out / "base_and_tuned.png")
    return files


@contextmanager
def workshop(plan: Plan, model: LatentModel, seed: int, *, alone: bool) -> Iterator[Workshop]:
    """Where one seed's arms are tuned, with progress; ``alone``: no other seed runs now."""
    with progress.shown(plan.quiet, None if alone else f"seed {seed}") as bars:
        yield Workshop(
            model=model,
            folder=plan.seed_folder(seed),
            # Far apart, so that no round of one seed repeats the noise of another seed.
            seed=seed * 1000,
            prompts=plan.texts("train"),
            rests=plan.of.rests,
            drawings=plan.of.drawings,
            runtime=plan.runtime,
            progress=bars.work,
        )


def _adapters(study: ArmStudy, plan: Plan, shop: Workshop) -> dict[str, Path]:
    """The adapters of all arms and rounds, by name."""
    arms = study.arms(plan)
    pools: dict[float, tuple[PoolPlan, Pools]] = {}
    for guidance in dict.fromkeys(arm.guidance for arm in arms):
        here = [arm for arm in arms if arm.guidance == guidance]
        wanted: dict[Rule, None] = dict.fromkeys(arm.rule for arm in here if arm.rule)
        how = PoolPlan(
            sampler=plan.sampler(guidance),
            candidates=max(arm.candidates for arm in here),
            rules=tuple(wanted),
            draws=plan.of.preset.draws,
            seed=shop.seed,
        )
        path = shop.folder / "pools" / f"guidance-{guidance:g}.parquet"
        pools[guidance] = how, shop.pools(path, how)
        if shop.seed == 0 and how.rules and len(pools) == 1:
            show_ranking(shop.model, pools[guidance][1], how.rules[0], plan.out / "ranking.png")
    made: dict[str, Path] = {}
    for arm in arms:
        how, first = pools[arm.guidance]
        made |= zip(arm.names, shop.tuned(arm, first, how), strict=True)
    return made


def pictures(
    plan: Plan,
    model: LatentModel,
    seed: int,
    guidances: Sequence[float],
    drawers: Mapping[str, Drawer],
) -> Files:
    """One seed's judged pictures of the base model, of all drawers, and of the world itself.

    Args:
        plan: of the study.
        model: without an adapter.
        seed: of the study's.
        guidances: at which all draw.
        drawers: by the names that tables show, which are neither ``BASE`` nor ``DRAWINGS``.
    """
    assert drawers.keys().isdisjoint((BASE, DRAWINGS))
    folder, test, number = plan.seed_folder(seed) / "pictures", plan.texts("test"), _TEST + seed
    drawings = folder / f"{DRAWINGS}.parquet"
    stored_drawings(drawings, plan.of, model, test, images=plan.images, seed=number)
    found: dict[float, dict[str, Path]] = {}
    for guidance in guidances:
        found[guidance] = {DRAWINGS: drawings}
        for name, drawer in {BASE: Drawer(), **drawers}.items():
            path = folder / f"{name} at {guidance:g}.parquet"
            stored_pictures(
                path,
                plan.of,
                model,
                test,
                images=plan.images,
                sampler=plan.sampler(guidance),
                seed=number,
                drawer=drawer,
                runtime=plan.runtime,
            )
            found[guidance][name] = path
    return found
