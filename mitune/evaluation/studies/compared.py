"""From the judged pictures of all seeds to the tables of a study."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mitune.evaluation.compare import Comparison, pooled
from mitune.evaluation.standard_error import Estimate, over
from mitune.evaluation.studies.drawn import features_of
from mitune.evaluation.studies.quality import diversity, frechet_distance

BASE = "base"
"""The untuned model's name in tables."""
DRAWINGS = "drawings"
"""That of the world's own pictures, which the Fréchet distance is to."""
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model's mean of one metric, with what it gains.

    Attributes:
        guidance: at which the model was used.
        model: base, an arm, or one of its rounds.
        category: of the prompts; "all" for all.
        metric: graded, strict, diversity, or frechet (which has no category).
        value: mean ± s.e. over prompts and seeds; of frechet over seeds.
        gain: less the base model's, in pairs of equal noise.
        over_control: less the control's; None where there is none.
    """

    guidance: float
    model: str
    category: str
    metric: str
    value: Estimate
    gain: Estimate | None
    over_control: Estimate | None

    def flat(self) -> dict[str, Any]:
        """As plain JSON, one level deep."""
        found = asdict(self)
        for name in ("value", "gain", "over_control"):
            one = found.pop(name) or {"mean": math.nan, "standard_error": math.nan}
            found[name] = one["mean"]
            found[f"{name}_se"] = one["standard_error"]
        return found


def rows(
    guidance: float,
    seeds: Sequence[Mapping[str, Any]],
    controls: Mapping[str, str | None],
    images: int,
) -> list[Row]:
    """The rows of a study at one guidance.

    Args:
        guidance: at which all models were used.
        seeds: for each seed the tables of ``drawn`` by model, of equal prompts; base and the
            world's drawings are among them.
        controls: for each model but the base and the drawings the name of its control.
        images: of each prompt.
    """
    comparison = pooled([_comparison(tables, seed, images) for seed, tables in enumerate(seeds)])
    first = next(iter(seeds))[BASE]
    kinds = dict(zip(first["prompt"].to_pylist(), first["category"].to_pylist(), strict=True))
    found = []
    for name in (BASE, *controls):
        control = controls.get(name)
        for category in (ALL, *dict.fromkeys(kinds.values())):
            part = _part(comparison, [category in (ALL, kinds[p]) for p in comparison.prompts])
            for metric in ("graded", "strict", "diversity"):
                found.append(
                    Row(
                        guidance=guidance,
                        model=name,
                        category=category,
                        metric=metric,
                        value=part.mean(name, metric),
                        gain=None if name == BASE else part.difference(name, BASE, metric),
                        over_control=None
                        if control is None
                        else part.difference(name, control, metric),
                    )
                )
        distances = [_to_drawings(tables, name) for tables in seeds]
        found.append(
            Row(
                guidance=guidance,
                model=name,
                category=ALL,
                metric="frechet",
                value=over(distances),
                gain=None,
                over_control=None,
            )
        )
    return found


def _comparison(tables: Mapping[str, Any], seed: int, images: int) -> Comparison:
    prompts = tables[BASE]["prompt"].to_pylist()
    values: dict[str, dict[str, Tensor]] = {}
    for name, table in tables.items():
        if name == DRAWINGS:
            continue
        values[name] = {
            metric: torch.tensor(table[metric].to_pylist(), dtype=torch.float64)
            for metric in ("graded", "strict")
        }
        # Each picture carries its prompt's.
        own = diversity(features_of(table), images)
        values[name]["diversity"] = own.repeat_interleave(images)
    return Comparison(prompts=prompts, seeds=[seed] * len(prompts), values=values)


def _part(comparison: Comparison, kept: Sequence[bool]) -> Comparison:
    index = torch.tensor(kept).nonzero().flatten()
    numbers = index.tolist()
    return Comparison(
        prompts=[comparison.prompts[i] for i in numbers],
        seeds=[comparison.seeds[i] for i in numbers],
        values={
            name: {metric: each[index] for metric, each in metrics.items()}
            for name, metrics in comparison.values.items()
        },
    )


def _to_drawings(tables: Mapping[str, Any], name: str) -> float:
    return frechet_distance(features_of(tables[name]), features_of(tables[DRAWINGS]))


def markdown(found: Sequence[Row]) -> str:
    """The rows as Markdown: for each guidance a table of all prompts, and one by category."""
    lines: list[str] = []
    for guidance in dict.fromkeys(row.guidance for row in found):
        here = {(r.model, r.category, r.metric): r for r in found if r.guidance == guidance}
        models = list(dict.fromkeys(model for model, _, _ in here))
        categories = [c for c in dict.fromkeys(c for _, c, _ in here) if c != ALL]
        lines += [f"At guidance {guidance:g}:", ""]
        lines += _overall(here, models)
        if len(categories) > 1:
            lines += ["", f"Strict by category, at guidance {guidance:g}:", ""]
            lines += _table(
                ["", *categories],
                ([m, *(here[m, c, "strict"].value for c in categories)] for m in models),
            )
        lines.append("")
    return "\n".join(lines)


def _overall(here: Mapping[tuple[str, str, str], Row], models: Sequence[str]) -> list[str]:
    head = ["", "strict", "less base", "less control", "graded", "diversity", "Fréchet distance"]

    def cells() -> Iterator[list[object]]:
        for model in models:
            strict = here[model, ALL, "strict"]
            others = [here[model, ALL, m].value for m in ("graded", "diversity", "frechet")]
            yield [model, strict.value, strict.gain or "", strict.over_control or "", *others]

    return _table(head, cells())


def _table(head: Sequence[str], body: Iterator[list[object]]) -> list[str]:
    rule = "|".join(["", "---", *["---:"] * (len(head) - 1), ""])
    lines = [f"| {' | '.join(head)} |", rule]
    return lines + [f"| {' | '.join(map(str, cells))} |" for cells in body]
