"""Measure the way from the authors' loop to ours, rung by rung, on one model, one list of prompts
and one machine.

Every rung generates the same candidates, because noise is keyed by candidate. So the choices of
each rung can be compared with those of the exact run in float32. The exact run is the rung
``slots`` or, if that was not run, ``exact float32``.
"""

from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from mitune_kernels.dispatch import choose

from mitune.bench.compared import figures_of
from mitune.bench.figures import Figures, doing, on
from mitune.bench.flops import peak_flops
from mitune.bench.plan import BASELINES, PRUNED, Rungs
from mitune.bench.pruned import curve
from mitune.bench.rungs import Made, Setting
from mitune.bench.table import add_ratios, describe
from mitune.core.errors import UserError
from mitune.core.provenance import environment

PAPER_CANDIDATES = 700 * 50
"""Candidates of the paper's set, which took 24 h on an A100 with 50 steps."""


def ladder(
    setting: Setting,
    tell: Callable[[str], None] = lambda line: None,
    only: Collection[str] | None = None,
    file: Path | None = None,
) -> dict[str, Any]:
    """Run the rungs, one after the other.

    Args:
        setting: the settings that all rungs share.
        tell: called with a line for each rung that is done; called again for a rung that was done
            before the exact run.
        only: names of the rungs to run, in this order; on a CPU the baselines come first, and
            ``fused`` runs before the first rung that prunes. None runs all, from the bottom. Models
            that no rung needs are not loaded.
        file: a JSON lines file. Each rung is written as soon as it is done; a rung that the file
            already holds is read and not run (``mitune.bench.figures``).

    Returns:
        ``device``, the setting, ``rungs`` by name (of this run and of the file), ``curve`` (all
        policies, replayed on the pools of the exact run) and ``projection`` to the paper's set.
        Without the exact run (``slots`` or ``exact float32``), the figures that depend on it are
        None and the curve is empty.

    Raises:
        UserError: for an unknown name in ``only``, or a file of another setting.
    """
    rungs = Rungs(setting)
    known = rungs.names
    for name in only or ():
        if name not in known:
            raise UserError(f"rung {name!r} is not known: choose from {', '.join(known)}")
    device = torch.device(setting.device)
    step = choose(setting.implementation, device)
    figures = Figures(file, {"bench": "generate", **asdict(setting), "step": step, **on(device)})
    wanted = [name for name in (known if only is None else only) if rungs.runs_here(name)]
    pruned = next((i for i, name in enumerate(wanted) if name in PRUNED), None)
    if pruned is not None and "fused" not in wanted[:pruned]:  # pruned rungs are compared with it
        wanted = [*wanted[:pruned], "fused", *(n for n in wanted[pruned:] if n != "fused")]
    if device.type == "cpu":
        wanted.sort(key=lambda name: name not in BASELINES)
    flops = figures.measured("model", lambda: {"flops": rungs.flops()})["flops"]
    peak = peak_flops(device)
    made = {n: Made.of_json(f["made"]) for n in known if (f := figures.get(n)) is not None}
    told: set[str] = set()
    for name in wanted:
        if name not in made:
            doing(f"rung {name}")
            found = rungs.run(name, made.get("fused"))
            if found is None:
                continue
            made[name] = found
            own = _of(name, made, flops, peak)
            figures.put(name, made=found.as_json(), figures=own)
        truth = _truth(made)
        for done in made:
            if truth is not None and done in wanted and done not in told:
                told.add(done)
                tell(describe(done, _of(done, made, flops, peak)))
        if truth is None:
            tell(describe(name, _of(name, made, flops, peak)))
    first = [*BASELINES, _truth_name(made)]
    order = [*(n for n in first if n in made), *(n for n in known if n in made and n not in first)]
    result = {name: _of(name, made, flops, peak) for name in order}
    add_ratios(result, "candidates_per_s")
    truth = _truth(made)
    steps = setting.sampler.steps
    return {
        **environment(device),
        "model": setting.model,
        "prompts": len(setting.prompts),
        "candidates": setting.candidates,
        "sampler": asdict(setting.sampler),
        "precision": setting.precision,
        "implementation": step,
        "slots": setting.slots,
        "seed": setting.seed,
        "tflop_per_row": flops / 1e12,
        "rungs": result,
        "curve": [] if truth is None else curve(truth, setting, rungs.weights(), rungs.finish()),
        "projection": {
            "what": "hours for the paper's 700 x 50 candidates of 50 steps at this rate on this "
            "device with this model; the paper: 24 h on an A100 with SD-2.1-base",
            "hours": {
                name: PAPER_CANDIDATES / own["candidates_per_s"] / 3600 * 50 / steps
                for name, own in result.items()
            },
        },
    }


def _truth_name(made: dict[str, Made]) -> str:
    return "slots" if "slots" in made else "exact float32"


def _truth(made: dict[str, Made]) -> Made | None:
    """The exact run in float32, with which the other rungs are compared."""
    return made.get(_truth_name(made))


def _of(name: str, made: dict[str, Made], flops: float, peak: float | None) -> dict[str, Any]:
    whole = made.get("fused") if name in PRUNED else None
    return figures_of(made[name], _truth(made), whole, flops, peak)
