"""Run a benchmark: draw, score, and tell its table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mitune.config.choices import Acting
from mitune.config.sets import GenerateConfig
from mitune.config.shard import WHOLE, Shard
from mitune.core.files import atomic_write
from mitune.core.provenance import as_json, environment
from mitune.evaluation.benchmarks.agreement import agreement
from mitune.evaluation.benchmarks.measure import leave_official, scored, three_in_one
from mitune.evaluation.benchmarks.suite import COMPBENCH, COMPLEX, PAPER, Suite
from mitune.evaluation.standard_error import Estimate, estimate
from mitune.methods.picture_files import (
    check_manifest,
    draw_pictures,
    file_names,
    picture_settings,
)
from mitune.methods.sampling.known import find_method
from mitune.models.protocol import LatentModel
from mitune.scoring.scorer import Scorer

MANIFEST = "benchmark.json"


def run_benchmark(
    model: LatentModel,
    suite: Suite,
    scorers: Sequence[Scorer],
    out: Path,
    config: GenerateConfig,
    *,
    adapter: str | None = None,
    method: Acting = "guidance",
    best_of: int = 1,
    shard: Shard = WHOLE,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Draw what is not drawn yet, score what is not scored yet, write ``results.json`` and
    ``table.md`` into ``out`` if there are scorers, and return the results.

    Args:
        model: with or without an adapter.
        suite: the benchmark.
        scorers: those that its categories name, and further ones, which score all categories.
        out: folder of this model's run.
        config: pictures of each prompt, sampler, seed, runtime.
        adapter: digest of the adapter on the model.
        method: what acts while a picture is sampled.
        best_of: each picture is the best by mutual information of so many.
        shard: the share of the pictures that this process draws. With a share alone there are no
            scorers: they need all pictures.
        progress: called with (what, done, in all).

    Raises:
        UserError: the folder is another benchmark's or another model's; as the scorers.
    """
    settings = {
        "benchmark": suite.name,
        "prompts": {name: list(prompts) for name, prompts in suite.prompts.items()},
        "negative_prompt": "",
        **picture_settings(model, config, adapter=adapter, method=method, best_of=best_of),
    }
    check_manifest(out, MANIFEST, settings)
    rows: list[dict[str, Any]] = []
    agreements: dict[str, list[dict[str, Any]]] = {}
    for category, prompts in suite.prompts.items():
        folder = out / category
        draw_pictures(
            model,
            prompts,
            folder / "samples",
            config,
            method=find_method(method),
            best_of=best_of,
            shard=shard,
            progress=_told(progress, f"{category}: pictures"),
        )
        names = file_names(prompts, config.candidates)
        texts = [prompt for prompt in prompts for _ in range(config.candidates)]
        by_metric = {
            scorer.name: scored(
                folder,
                names,
                texts,
                scorer,
                model.picture_size,
                _told(progress, f"{category}: {scorer.name}"),
            )
            for scorer in scorers
            if suite.scores(scorer.name, category)
        }
        if suite.name == COMPBENCH:
            if category == COMPLEX:
                by_metric |= three_in_one(suite, texts, by_metric)
            leave_official(folder, category, names, by_metric)
        agreements[category] = agreement(texts, by_metric)
        for name, values in by_metric.items():
            value = estimate(values, texts, [config.seed] * len(texts))
            rows.append({"category": category, "metric": name, "value": asdict(value)})
    result = {
        **settings,
        "rows": rows,
        "agreement": agreements,
        "paper": PAPER if suite.name == COMPBENCH else {},
        "environment": environment(model.device),
    }
    if scorers:  # pictures alone leave the results of an earlier run as they are
        atomic_write(out / "results.json", as_json(result, indent=1).encode())
        atomic_write(out / "table.md", table(suite.name, rows).encode())
    return result


def _told(
    progress: Callable[[str, int, int], None] | None, what: str
) -> Callable[[int, int], None] | None:
    return None if progress is None else partial(progress, what)


def table(suite: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of ``run_benchmark``'s results as Markdown; of T2I-CompBench with the paper's
    numbers, in the same unit."""
    paper = PAPER if suite == COMPBENCH else {}
    lines = [
        ["category", "metric", "mean ± s.e.", *(f"{name} (paper)" for name in paper)],
        ["---"] * (3 + len(paper)),
    ]
    for row in rows:
        value = Estimate(**row["value"])
        published = [f"{numbers[row['category']] / 100:.4f}" for numbers in paper.values()]
        lines.append([row["category"], row["metric"], str(value), *published])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
