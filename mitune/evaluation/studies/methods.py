"""Against whom (the paper's Table 1)? MI-Tune and the methods that it is compared with, on the same
base, prompts, noise and verdicts.

GORS and DPOK are defined by a reward: here the oracle's graded score stands for BLIP-VQA, and the
table says so. Nothing else reads the oracle.
"""

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from mitune.core import progress
from mitune.core.errors import UserError
from mitune.evaluation.seeds import each_seed, processes
from mitune.evaluation.studies.baseline import RANDOM, baseline, random_of
from mitune.evaluation.studies.choice import Chosen, choose
from mitune.evaluation.studies.comparison import Files, pictures, tell_comparison, workshop
from mitune.evaluation.studies.drawn import Drawer
from mitune.evaluation.studies.plan import Plan
from mitune.evaluation.studies.pools import PoolPlan, Pools
from mitune.evaluation.studies.sampling import drawers
from mitune.evaluation.studies.tuned import Workshop
from mitune.methods.dpok import DpokConfig, dpok
from mitune.methods.gors import Rewarded, gors
from mitune.methods.negatives import exchanged
from mitune.training.loop import tune

_QUESTION = "Which method aligns best, at which cost (Table 1)?"
_BEST_OF = 8
_ROUNDS = 3
_DPO_BETA = 2000.0
"""The least that its authors take."""
_THRESHOLD = 0.75
"""Of GORS: that of its authors for places, between those for attributes and for relations."""
_DPOK_SHARE = 2
"""DPOK's iterations: those of the other trainings divided by this; each draws pictures too."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a method needs, for the table.

    Attributes:
        reward: whether it sees a reward in training.
        other: a parser, attention maps, or nothing.
        use: passes of the denoiser for each picture, in units of those of plain guidance.
        training: what has to be drawn and trained on before.
    """

    reward: bool = False
    other: str = "nothing"
    use: str = "1"
    training: str = "none"


_POOL = "the pools, scored by re-noising; the steps of one tuning"
NEEDS = {
    **{f"MI-Tune R={number}": Needs(training=f"{number} times: {_POOL}") for number in (1, 2, 3)},
    RANDOM: Needs(training="the pools; the steps of one tuning"),
    "Diffusion-DPO on MI pairs": Needs(training=f"{_POOL}, each with three passes more"),
    "HN-ITM": Needs(other="a parser", training=f"{_POOL}, each with a pass more"),
    "GORS": Needs(reward=True, training="the pools, rewarded; the steps of one tuning"),
    "DPOK": Needs(reward=True, training="pictures in each iteration, rewarded; policy gradient"),
    "Attend-and-Excite": Needs(
        other="a parser, attention maps", use="about 2, with gradients, and more where it repeats"
    ),
    "Structured Diffusion Guidance": Needs(other="a parser"),
    f"best of {_BEST_OF} by MI": Needs(use=str(_BEST_OF)),
}


def run(plan: Plan) -> dict[str, Any]:
    """Make what is missing, then the tables, the data and the picture, in the plan's folder."""
    start = time.perf_counter()
    count = processes(plan.processes, plan.seeds)
    files = each_seed(partial(_repeat, plan, alone=count == 1), plan.seeds, count)
    ours = ("MI-Tune R=1", "Diffusion-DPO on MI pairs", "HN-ITM")
    names = [name for name in next(iter(files[0].values())) if name not in ("base", "drawings")]
    controls = {name: RANDOM if name in ours else None for name in names}
    return tell_comparison(plan, "methods", _QUESTION, files, controls, start, _table())


def _table() -> str:
    heads = ["method", "sees a reward", "needs", "passes for a picture", "before use"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, needs in NEEDS.items():
        reward = "**yes, the oracle**" if needs.reward else "no"
        lines.append(f"| {name} | {reward} | {needs.other} | {needs.use} | {needs.training} |")
    return "\nWhat each needs; passes in units of plain guidance:\n\n" + "\n".join(lines) + "\n"


def _repeat(plan: Plan, seed: int, *, alone: bool) -> Files:
    progress.quiet_libraries()
    model = plan.load()
    with workshop(plan, model, seed, alone=alone) as shop:
        adapters = _trained(plan, shop)
    sampled = {name: made for name, made in drawers(plan).items() if name in NEEDS}
    best = {f"best of {_BEST_OF} by MI": Drawer(best_of=_BEST_OF)}
    tuned = {name: Drawer(adapter=path) for name, path in adapters.items()}
    return pictures(plan, model, seed, (plan.compared_at,), {**tuned, **sampled, **best})


def _trained(plan: Plan, shop: Workshop) -> dict[str, Path]:
    """The adapters of all methods that train, by name."""
    one = baseline(plan)
    assert one.rule is not None
    how = PoolPlan(
        sampler=plan.sampler(one.guidance),
        candidates=one.candidates,
        rules=(one.rule,),
        draws=plan.of.preset.draws,
        seed=shop.seed,
    )
    pools = shop.pools(shop.folder / "pools" / f"guidance-{one.guidance:g}.parquet", how)
    made: dict[str, Path] = {}
    rounds = shop.tuned(replace(one, rounds=_ROUNDS), pools, how)
    made |= {f"MI-Tune R={number}": path for number, path in enumerate(rounds, start=1)}
    made[RANDOM] = shop.tuned(random_of(one), pools, how)[0]
    lowest = replace(pools, scores={one.rule: -pools.scores[one.rule]})
    best, worst = (
        Chosen(
            settings=shop.settings,
            pairs=choose(each, one.rule, candidates=one.candidates, keep=one.keep, seed=shop.seed),
        )
        for each in (pools, lowest)
    )
    # Eager: in bfloat16 two roundings of a difference of errors lie further apart than the check of
    # compiled gradients allows.
    tuning = replace(one.tuning, seed=shop.seed, backend="eager")

    def told(name: str) -> Any:
        return lambda step, of, _: shop.progress(f"{name}: tuning", step, of)

    name = "Diffusion-DPO on MI pairs"
    made[name] = tune(
        shop.model,
        best,
        shop.folder / name,
        replace(tuning, dpo_beta=_DPO_BETA),
        worse=worst,
        progress=told(name),
    )
    made["HN-ITM"] = _matching(shop, best, replace(tuning, itm_factor=1.0), told("HN-ITM"))
    made |= _rewarded(plan, shop, pools, told)
    return made


def _matching(shop: Workshop, best: Chosen, tuning: Any, told: Any) -> Path:
    """HN-ITM on the pairs whose prompt has a wrong one, made by exchanging two phrases' words."""
    wrong: dict[str, str] = {}
    for prompt in shop.prompts:
        try:
            wrong[prompt] = exchanged(prompt)
        except UserError:  # of one phrase: there is nothing to exchange
            continue
    kept = [pair for pair in best.pairs if pair[0] in wrong]
    return tune(
        shop.model,
        Chosen(settings=shop.settings, pairs=kept),
        shop.folder / "HN-ITM",
        tuning,
        wrong=wrong,
        progress=told,
    )


def _rewarded(plan: Plan, shop: Workshop, pools: Pools, told: Any) -> dict[str, Path]:
    """What learns from the oracle's graded score."""
    model, tuning = shop.model, replace(plan.tuning, seed=shop.seed)

    def reward(prompts: Any, latents: Tensor) -> Tensor:
        verdicts = plan.of.judge(list(prompts), model.decode(latents.to(model.device)))
        return latents.new_tensor([verdict.graded for verdict in verdicts])

    texts = [prompt for prompt in pools.prompts for _ in range(pools.latents.shape[1])]
    every = pools.latents.flatten(0, 1)
    rewards = reward(texts, every).tolist()
    pairs = list(zip(texts, every, strict=True))
    return {
        "GORS": gors(
            model,
            Rewarded(settings=shop.settings, pairs=pairs, rewards=rewards),
            shop.folder / "GORS",
            tuning,
            threshold=_THRESHOLD,
            progress=told("GORS"),
        ),
        "DPOK": dpok(
            model,
            list(shop.prompts),
            reward,
            shop.folder / "DPOK",
            DpokConfig(
                iterations=max(1, tuning.iterations // _DPOK_SHARE),
                sampler=plan.sampler(plan.pool_guidance),
                tuning=tuning,
            ),
            reward_name=f"the {plan.world} world's oracle, graded",
            progress=told("DPOK"),
        ),
    }
