"""Where does MI see the errors that guidance leaves? Every rule that could rank a pool, at every
guidance of the pool, by category, against the oracle of the second edition.

    python -m mitune.evaluation.gate --model FOLDER --out FOLDER

Each guidance's pools are drawn and scored once, and kept in ``guidance-*.parquet``, one row per
candidate; the same command goes on after an interruption. The tables are made from these files.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy import stats
from torch import Tensor

from mitune.arguments.module import run_module
from mitune.core import progress
from mitune.core.errors import UserError
from mitune.core.files import atomic_write, make_folder
from mitune.core.provenance import as_json, environment
from mitune.evaluation.compare import draw_candidates
from mitune.evaluation.rules import Renoising, rank_rules
from mitune.evaluation.standard_error import Estimate, over
from mitune.load import pick_device
from mitune.models.loading import load_model
from mitune.models.protocol import LatentModel
from mitune.worlds.shapes.preset import PRESET
from mitune.worlds.shapes2 import oracle
from mitune.worlds.shapes2.prompts import first_prompts, rests

_IDENTITY = b"mitune.gate"
"""Key of a file's metadata: what its content depends on."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The gate of the second edition: every rule's agreement with the oracle, by guidance and
    category."""

    model: Path
    """Folder of the pipeline."""
    out: Path
    """Folder for the candidates' scores and the tables; the same command resumes."""
    guidance: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0, 7.5)
    """Guidance scales of the pools."""
    prompts: int = 8
    """Prompts of each category, from the start of its list."""
    split: str = "train"
    """The lists that they are from: train or test."""
    unseen: bool = False
    """Prompts with a pair that pre-training never showed, instead of those without."""
    candidates: int = 32
    """Pool size."""
    steps: int = 25
    """Sampling steps."""
    draws: int = 12
    """Draws for each picture, for the rules that re-noise."""
    t_min: tuple[float, ...] = (-1.0, 400.0)
    """Only timesteps above it count; the rules are computed for each."""
    seed: int = 7
    """Keys all noise."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Agreement of one rule with the oracle's graded score within pools, over the prompts of a
    category ("all": every one) whose pools vary; means with standard errors over prompts.

    Attributes:
        tau: Kendall's τ-b.
        spearman: rank correlation.
        gain: strict of the first choice, less the pool's mean; over all prompts of the category.
    """

    guidance: float
    category: str
    rule: str
    prompts: int
    tau: Estimate
    spearman: Estimate
    gain: Estimate


def pools(model: LatentModel, options: Options, guidance: float) -> pa.Table:
    """Draw the pools at one guidance and score them: one row per candidate."""
    kinds = first_prompts(options.split, options.prompts, unseen=options.unseen)
    sampler = replace(model.preset.sampler, steps=options.steps, guidance=guidance)
    made = draw_candidates(
        model, list(kinds), images=options.candidates, sampler=sampler, seed=options.seed
    )
    verdicts = oracle.score(
        [c.prompt for c in made], model.decode(torch.stack([c.latent for c in made]))
    )
    how = Renoising(draws=options.draws, seed=options.seed, t_mins=options.t_min)
    rules = rank_rules(model, made, options.candidates, sampler, how, rests)
    columns: dict[str, Sequence[Any]] = {
        "prompt": [c.prompt for c in made],
        "category": [kinds[c.prompt] for c in made],
        "candidate": [c.index for c in made],
        "graded": [v.graded for v in verdicts],
        "strict": [v.strict for v in verdicts],
    }
    return pa.table(columns | {name: values.numpy() for name, values in rules.items()})


def stored_pools(model: LatentModel, options: Options, guidance: float) -> pa.Table:
    """As ``pools``, from the file of an earlier run if there is one.

    Raises:
        UserError: the file is of another model or other settings.
    """
    path = options.out / f"guidance-{guidance:g}.parquet"
    settings = {k: v for k, v in asdict(options).items() if k not in ("model", "out", "guidance")}
    identity = as_json({**settings, "guidance": guidance, "model": model.fingerprint}).encode()
    if path.exists():
        table = pq.read_table(path)
        if (table.schema.metadata or {}).get(_IDENTITY) != identity:
            raise UserError(
                f"{path} is of another model or other settings: expected those of this command; "
                "give another --out"
            )
        return table
    table = pools(model, options, guidance).replace_schema_metadata({_IDENTITY: identity})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    atomic_write(path, sink.getvalue().to_pybytes())
    return table


def agreement(table: pa.Table, guidance: float, candidates: int) -> list[Row]:
    """The rows of one guidance, from its candidates in the order of ``pools``."""
    given = ("prompt", "category", "candidate", "graded", "strict")
    rules = [name for name in table.column_names if name not in given]

    def column(name: str) -> Tensor:
        values = torch.tensor(table[name].to_pylist(), dtype=torch.float64)
        return values.view(-1, candidates)

    kinds = table["category"].to_pylist()[::candidates]
    graded, strict = column("graded"), column("strict")
    varies = graded.amax(1) > graded.amin(1)
    rows = []
    for category in ("all", *dict.fromkeys(kinds)):
        own = [i for i, kind in enumerate(kinds) if category in ("all", kind)]
        for rule in rules:
            scores = column(rule)
            counted = [i for i in own if varies[i]]
            pairs = [(scores[i].numpy(), graded[i].numpy()) for i in counted]
            first = [float(strict[i, scores[i].argmax()] - strict[i].mean()) for i in own]
            rows.append(
                Row(
                    guidance=guidance,
                    category=category,
                    rule=rule,
                    prompts=len(counted),
                    tau=over([float(stats.kendalltau(*pair).statistic) for pair in pairs]),
                    spearman=over([float(stats.spearmanr(*pair).statistic) for pair in pairs]),
                    gain=over(first),
                )
            )
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown, one line per row."""
    head = "| guidance | category | rule | prompts | τ | Spearman | first choice, strict |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for r in rows:
        lines.append(
            f"| {r.guidance:g} | {r.category} | {r.rule} | {r.prompts} | {r.tau} | {r.spearman} | "
            f"{r.gain} |"
        )
    return "\n".join(lines) + "\n"


def main(options: Options) -> None:
    """Make what is missing, then all tables; those over all categories are printed too."""
    progress.quiet_libraries()
    make_folder(options.out)
    model = load_model(
        options.model, device=pick_device(None), precision="float32", preset=PRESET, offload=False
    )
    rows: list[Row] = []
    for guidance in options.guidance:
        table = stored_pools(model, options, guidance)
        graded, strict = (sum(table[n].to_pylist()) / len(table) for n in ("graded", "strict"))
        print(f"guidance {guidance:g}: graded {graded:.3f}, strict {strict:.3f}", flush=True)
        found = agreement(table, guidance, options.candidates)
        rows += found
        print(markdown([row for row in found if row.category == "all"]), flush=True)
    atomic_write(options.out / "gate.md", markdown(rows).encode())
    given = {**asdict(options), "model": str(options.model), "out": str(options.out)}
    body = {"options": given, "rows": [asdict(row) for row in rows]}
    body["environment"] = environment(model.device)
    atomic_write(options.out / "gate.json", as_json(body, indent=1).encode())


if __name__ == "__main__":
    run_module(Options, main)
