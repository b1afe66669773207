"""What a study's pools held and what was kept of them, by the oracle, after the study:

python -m mitune.evaluation.studies.chosen --study runs/selection
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import torch

from mitune.arguments.fields import stands_for
from mitune.arguments.module import run_module
from mitune.core import progress
from mitune.core.errors import UserError
from mitune.evaluation.correlation import kendall
from mitune.evaluation.standard_error import Estimate, estimate
from mitune.evaluation.studies.baseline import rule_of
from mitune.evaluation.studies.compared import ALL
from mitune.evaluation.studies.pools import scores_file
from mitune.evaluation.studies.stored import from_bytes
from mitune.load import pick_device
from mitune.worlds.known import WORLDS
from mitune.worlds.world import World


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a study's pools held and what it kept of them, by the oracle."""

    study: Path
    """Folder of a study that tunes, or the --work of several."""
    world: str = "shapes"
    """Its world."""
    keep: int = 2
    """How many of each pool it kept."""
    guidance: Annotated[float | None, stands_for("the preset's")] = None
    """Of the pools."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Pools of one category ("all": every one), means ± s.e. over prompts and seeds.

    Attributes:
        pools: how many.
        strict, kept: of all candidates, and of the best by the score.
        tau: Kendall's τ-b of score and graded verdict within pools.
        tau_of_three: the same of the first, the middle and the last by the score.
    """

    category: str
    pools: int
    strict: Estimate
    kept: Estimate
    tau: Estimate
    tau_of_three: Estimate


def chosen(world: World, study: Path, keep: int, guidance: float | None = None) -> list[Row]:
    """The rows of a study's pools, by the rule of the world's preset.

    Args:
        world: of the study; its shipped model decodes.
        study: its folder.
        keep: how many of each pool it kept.
        guidance: of the pools; None: the preset's.

    Raises:
        UserError: the folder has no scored pools.
    """
    at_guidance = world.preset.sampler.guidance if guidance is None else guidance
    files = sorted(study.glob(f"seed-*/pools/guidance-{at_guidance:g}.parquet"))
    if not files:
        raise UserError(
            f"{study} has no pools of guidance {at_guidance:g}: expected the folder of a study "
            "that tunes"
        )
    rule = rule_of(world.preset)
    model = world.load(device=pick_device(None), precision="float32")
    at: list[tuple[str, int]] = []
    values: dict[str, list[float]] = {n: [] for n in ("strict", "kept", "tau", "three")}
    for number, file in enumerate(files):
        table = pq.read_table(file)
        texts = table["prompt"].to_pylist()
        prompts = list(dict.fromkeys(texts))
        scored = scores_file(file, rule)
        if not scored.exists():
            raise UserError(f"{file} has no scores by {rule}: expected pools that it ranks")
        latents = from_bytes(table["latent"].to_pylist()).view(-1, *model.latent_shape)
        verdicts = world.judge(texts, model.decode(latents))
        columns = [
            torch.tensor(each, dtype=torch.float64).view(len(prompts), -1)
            for each in (
                pq.read_table(scored)["score"].to_pylist(),
                [float(v.strict) for v in verdicts],
                [v.graded for v in verdicts],
            )
        ]
        for prompt, scores, strict, graded in zip(prompts, *columns, strict=True):
            order = scores.argsort(descending=True)
            ends = order[[0, len(order) // 2, -1]]
            at.append((prompt, number))
            values["strict"].append(float(strict.mean()))
            values["kept"].append(float(strict[order[:keep]].mean()))
            values["tau"].append(kendall(scores, graded))
            values["three"].append(kendall(scores[ends], graded[ends]))
    kinds = world.first_prompts("train", len(at))
    found = []
    for category in (*dict.fromkeys(kinds[prompt] for prompt, _ in at), ALL):
        own = [i for i, (prompt, _) in enumerate(at) if category in (ALL, kinds[prompt])]
        prompts, seeds = [at[i][0] for i in own], [at[i][1] for i in own]
        means = {
            name: estimate(torch.tensor([each[i] for i in own]).double(), prompts, seeds)
            for name, each in values.items()
        }
        found.append(
            Row(
                category=category,
                pools=len(own),
                strict=means["strict"],
                kept=means["kept"],
                tau=means["tau"],
                tau_of_three=means["three"],
            )
        )
    return found


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    lines = ["| | pools | strict | strict of the kept | τ | τ of three ranks |", "|---" * 6 + "|"]
    lines += [
        f"| {r.category} | {r.pools} | {r.strict} | {r.kept} | {r.tau} | {r.tau_of_three} |"
        for r in rows
    ]
    return "\n".join(lines)


def main(options: Options) -> None:
    """Print the table."""
    progress.quiet_libraries()
    if options.world not in WORLDS:
        raise UserError(f"world {options.world!r} is not known: choose one of {', '.join(WORLDS)}")
    print(markdown(chosen(WORLDS[options.world], options.study, options.keep, options.guidance)))


if __name__ == "__main__":
    run_module(Options, main)
