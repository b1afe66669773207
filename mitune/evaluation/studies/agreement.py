"""Where does MI see the errors that guidance leaves? Every rule that could rank a pool, at every
guidance of the pool, by category, against the world's oracle (``docs/estimators.md``)."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from mitune.core import progress
from mitune.evaluation.correlation import kendall, spearman
from mitune.evaluation.rules import every_rule
from mitune.evaluation.seeds import each_seed, processes
from mitune.evaluation.standard_error import Estimate, estimate
from mitune.evaluation.studies.budget import Budget, first_of
from mitune.evaluation.studies.compared import ALL
from mitune.evaluation.studies.plan import Plan
from mitune.evaluation.studies.pools import PoolPlan, Pools, digest, stored_pools
from mitune.evaluation.studies.stored import stored
from mitune.evaluation.studies.told import tell

GUIDANCE = (1.0, 2.0, 3.0, 5.0, 7.5)
"""Of the pools, unless one is given."""
T_MINS = (-1.0, 500.0)
"""All timesteps, and the paper's upper half, below which scores see noise (docs/estimators.md)."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Pools, and what the oracle says of their candidates: ``graded`` and ``strict``, ``[P, M]``
    float64."""

    pools: Pools
    graded: Tensor
    strict: Tensor


@dataclass(frozen=True, kw_only=True)
class Row:
    """Agreement of one rule with the oracle's graded score within pools, over the pools of a
    category ("all": every one) that vary; means ± s.e. over prompts and seeds.

    Attributes:
        pools: how many vary.
        tau: Kendall's τ-b over whole pools.
        tau_of_three: the same of the first, the middle and the last by the rule (the paper's ranks
            1, 25 and 50 of 50), over those where the three differ.
        spearman: rank correlation over whole pools.
        gain: strict of the first choice, less the pool's mean; over all pools of the category.
        on_budget: the same where every rule may spend as many passes as drawing the whole pool
            takes with both predictions, so that one that costs more sees fewer candidates.
    """

    guidance: float
    category: str
    rule: str
    pools: int
    tau: Estimate
    tau_of_three: Estimate
    spearman: Estimate
    gain: Estimate
    on_budget: Estimate


def judged_pools(plan: Plan, seed: int) -> dict[float, Judged]:
    """One seed's pools at every guidance, scored and judged."""
    progress.quiet_libraries()
    model = plan.load()
    texts = list(plan.texts("train"))
    found = {}
    for guidance in GUIDANCE if plan.guidance is None else (plan.guidance,):
        path = plan.seed_folder(seed) / "pools" / f"guidance-{guidance:g}.parquet"
        rules = every_rule(T_MINS)
        pool = PoolPlan(
            sampler=plan.sampler(guidance),
            candidates=plan.candidates,
            rules=tuple(rules),
            draws=model.preset.draws,
            seed=seed * 1000,
        )
        pools = stored_pools(path, model, texts, plan.of.rests, pool, runtime=plan.runtime)

        def make(pools: Pools = pools) -> pa.Table:
            pictures = model.decode(pools.latents.flatten(0, 1))
            each = [text for text in texts for _ in range(plan.candidates)]
            verdicts = plan.of.judge(each, pictures)
            return pa.table(
                {
                    "graded": [v.graded for v in verdicts],
                    "strict": [float(v.strict) for v in verdicts],
                }
            )

        identity = {"pools": str(path.name), "latents": digest(pools.latents)}
        table = stored(path.with_name(f"judged-{guidance:g}.parquet"), identity, make)
        graded, strict = (
            torch.tensor(table[n].to_pylist(), dtype=torch.float64).view(len(texts), -1)
            for n in ("graded", "strict")
        )
        print(
            f"seed {seed}, guidance {guidance:g}: graded {float(graded.mean()):.3f}, strict "
            f"{float(strict.mean()):.3f}",
            flush=True,
        )
        found[guidance] = Judged(pools=pools, graded=graded, strict=strict)
    return found


def agreement(seeds: Sequence[Judged], kinds: Sequence[str], budget: Budget) -> list[Row]:
    """The rows of one guidance, from the pools of all seeds; ``kinds`` has each prompt's
    category."""
    found = []
    for category in (ALL, *dict.fromkeys(kinds)):
        own = [i for i, kind in enumerate(kinds) if category in (ALL, kind)]
        for rule in seeds[0].pools.scores:
            at: list[tuple[str, int]] = []
            values: dict[str, list[float]] = {
                n: [] for n in ("tau", "three", "spearman", "gain", "budget")
            }
            for seed, judged in enumerate(seeds):
                for i in own:
                    scores, graded = judged.pools.scores[rule][i], judged.graded[i]
                    at.append((judged.pools.prompts[i], seed))
                    three = scores.argsort(descending=True)[[0, len(scores) // 2, -1]]
                    values["tau"].append(kendall(scores, graded))
                    values["three"].append(kendall(scores[three], graded[three]))
                    values["spearman"].append(spearman(scores, graded))
                    strict = judged.strict[i]
                    values["gain"].append(float(strict[scores.argmax()] - strict.mean()))
                    seen = budget.seen(rule, judged.pools.prompts[i], len(scores))
                    first = first_of(seen, scores, strict)
                    values["budget"].append(first - float(strict.mean()))
            prompts, numbers = [prompt for prompt, _ in at], [seed for _, seed in at]
            means = {
                name: estimate(torch.tensor(each, dtype=torch.float64), prompts, numbers)
                for name, each in values.items()
            }
            found.append(
                Row(
                    guidance=budget.sampler.guidance,
                    category=category,
                    rule=str(rule),
                    pools=sum(tau == tau for tau in values["tau"]),
                    tau=means["tau"],
                    tau_of_three=means["three"],
                    spearman=means["spearman"],
                    gain=means["gain"],
                    on_budget=means["budget"],
                )
            )
    return found


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown, one line per row."""
    head = (
        "| guidance | category | rule | pools | τ | τ of three | Spearman | first choice, strict "
        "| on equal budget |"
    )
    lines = [head, "|---:|---|---|---:|---:|---:|---:|---:|---:|"]
    for r in rows:
        lines.append(
            f"| {r.guidance:g} | {r.category} | {r.rule} | {r.pools} | {r.tau} | "
            f"{r.tau_of_three} | {r.spearman} | {r.gain} | {r.on_budget} |"
        )
    return "\n".join(lines) + "\n"


def run(plan: Plan) -> dict[str, Any]:
    """Make what is missing, then the tables; those over all categories are printed too."""
    start = time.perf_counter()
    found = each_seed(
        partial(judged_pools, plan), plan.seeds, processes(plan.processes, plan.seeds)
    )
    kinds = list(plan.texts("train").values())

    def budget(guidance: float) -> Budget:
        draws = plan.of.preset.draws
        return Budget(sampler=plan.sampler(guidance), draws=draws, rests=plan.of.rests)

    rows = [
        row
        for guidance in found[0]
        for row in agreement([seed[guidance] for seed in found], kinds, budget(guidance))
    ]
    print(markdown([row for row in rows if row.category == ALL]))
    seconds = time.perf_counter() - start
    return tell(plan, "agreement", markdown(rows), [_flat(row) for row in rows], seconds)


def _flat(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in asdict(row).items():
        if isinstance(value, dict):
            found |= {name: value["mean"], f"{name}_se": value["standard_error"]}
        else:
            found[name] = value
    return found
