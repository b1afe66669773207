"""What people answered: percentages, combinations, tests, agreement (MI-Tune, Tables 3 and 4).

Answers of one survey depend on each other a little, and so do those about one prompt; intervals and
tests take them as independent, as the paper's percentages do.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from mitune.report.page import render
from mitune.survey.krippendorff import alpha
from mitune.survey.pool import Pool
from mitune.survey.store import Survey

if TYPE_CHECKING:
    from mitune.survey.metrics import Metric

_FEW = 4
"""So many options or fewer have a table of all combinations."""
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answered round of a finished survey.

    Attributes:
        survey, people: whose.
        category, prompt: about what.
        chosen: what was chosen of all ``options``.
    """

    survey: str
    people: str
    category: str
    prompt: str
    chosen: frozenset[str]
    options: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Share:
    """In how many of the answers something was chosen; ``low`` and ``high``: Wilson's 95 %
    interval."""

    count: int
    of: int
    low: float
    high: float

    def __str__(self) -> str:
        if not self.of:
            return ""
        low, high = 100 * self.low, 100 * self.high
        return f"{100 * self.count / self.of:.1f} % [{low:.1f}, {high:.1f}]"


def answers_of(surveys: Sequence[Survey]) -> list[Answer]:
    """The answers of the finished surveys."""
    return [
        Answer(
            survey=survey.id,
            people=survey.people,
            category=asked.category,
            prompt=asked.prompt,
            chosen=frozenset(survey.answers[number]),
            options=survey.options,
        )
        for survey in surveys
        if survey.finished is not None
        for number, asked in enumerate(survey.rounds)
    ]


def share(count: int, of: int) -> Share:
    """A share with its interval."""
    low, high = proportion_confint(count, of, method="wilson") if of else (0.0, 1.0)
    return Share(count=count, of=of, low=float(low), high=float(high))


def shares(answers: Sequence[Answer], option: str) -> Share:
    """In how many answers ``option`` was chosen, whatever else was."""
    return share(sum(option in answer.chosen for answer in answers), len(answers))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two options compared on the same pages: how often only the one was chosen, and McNemar's
    exact test with Holm's correction for all pairs."""

    first: str
    second: str
    only_first: int
    only_second: int
    p: float


def pairs(answers: Sequence[Answer], options: Sequence[str]) -> list[Pair]:
    """Every two options."""
    found = []
    for first, second in combinations(options, 2):
        one = sum(first in a.chosen and second not in a.chosen for a in answers)
        other = sum(second in a.chosen and first not in a.chosen for a in answers)
        p = float(mcnemar([[0, one], [other, 0]], exact=True).pvalue) if one + other else 1.0
        found.append((first, second, one, other, p))
    corrected = multipletests([p for *_, p in found], method="holm")[1] if found else []
    return [
        Pair(first=first, second=second, only_first=one, only_second=other, p=float(p))
        for (first, second, one, other, _), p in zip(found, corrected, strict=True)
    ]


def agreement(answers: Sequence[Answer]) -> float | None:
    """Krippendorff's alpha of choosing or not, over prompts and options that several people saw;
    None if there are none."""
    units: dict[tuple[str, str, str], list[int]] = {}
    for answer in answers:
        for option in answer.options:
            key = (answer.category, answer.prompt, option)
            units.setdefault(key, []).append(int(option in answer.chosen))
    return alpha(list(units.values()))


def plain(surveys: Sequence[Survey], pools: Sequence[Pool] = ()) -> dict[str, Any]:
    """The shares, alpha and agreement with metrics of each pool, as plain JSON."""
    found: dict[str, Any] = {}
    for pool, own in _by_pool(surveys).items():
        answers = answers_of(own)
        found[pool] = {
            "finished": sum(survey.finished is not None for survey in own),
            "unfinished": sum(survey.finished is None for survey in own),
            "chosen": {name: asdict(shares(answers, name)) for name in own[0].options},
            "alpha": agreement(answers),
            "metrics": [asdict(metric) for metric in _metrics(own, pools)],
        }
    return found


def text(surveys: Sequence[Survey]) -> str:
    """The same for people who read a terminal."""
    lines = []
    for pool, own in _by_pool(surveys).items():
        answers = answers_of(own)
        finished = sum(survey.finished is not None for survey in own)
        lines.append(f"{pool}: {finished} finished surveys, {len(answers)} answers")
        lines += [f"  {name:20s} {shares(answers, name)}" for name in own[0].options]
    return "\n".join(lines) or "no surveys yet"


def _by_pool(surveys: Sequence[Survey]) -> dict[str, list[Survey]]:
    found: dict[str, list[Survey]] = {}
    for survey in surveys:
        found.setdefault(survey.pool, []).append(survey)
    return found


def results_page(surveys: Sequence[Survey], pools: Sequence[Pool] = ()) -> Markup:
    """The tables of all pools, as HTML; with agreement with metrics for those that are given."""
    parts = []
    for pool, own in _by_pool(surveys).items():
        parts.append(Markup("<h2>{}</h2>").format(pool))
        parts += tables(own)
        if metrics := _metrics(own, pools):
            rows = [[m.name, str(m.tau), m.prompts] for m in metrics]
            caption = "agreement of metrics with people: Kendall's tau within prompts"
            heads = ["", "tau", "prompts"]
            parts.append(render("table.html", caption=caption, heads=heads, rows=rows))
    return Markup("").join(parts) or Markup("<p>There are no surveys yet.</p>")


def tables(surveys: Sequence[Survey]) -> list[Markup]:
    """The tables of one pool's surveys."""
    answers, options = answers_of(surveys), surveys[0].options
    finished = sum(survey.finished is not None for survey in surveys)
    groups = dict.fromkeys(answer.people for answer in answers)
    found = agreement(answers)
    told = (
        f"{finished} finished surveys with {len(answers)} answers, {len(surveys) - finished} "
        "unfinished ones, which are not counted. Krippendorff's alpha between people: "
        f"{'not known, as no two saw the same prompt' if found is None else f'{found:.3f}'}."
    )
    made = [Markup("<p>{}</p>").format(told)]
    if not answers:
        return made
    categories = [c for c in dict.fromkeys(sorted(a.category for a in answers)) if c]
    columns = [(ALL, answers)]
    columns += [(f"category: {c}", [a for a in answers if a.category == c]) for c in categories]
    columns += [
        (f"people: {g}", [a for a in answers if a.people == g]) for g in groups if len(groups) > 1
    ]
    rows = [[name, *(str(shares(part, name)) for _, part in columns)] for name in options]
    caption = "chosen, whatever else was chosen; Wilson's 95 % interval"
    made.append(render("table.html", caption=caption, heads=["", *dict(columns)], rows=rows))
    if len(options) <= _FEW:
        made.append(_combinations(answers, options))
    lines = [
        [f"{p.first} and {p.second}", p.only_first, p.only_second, p.p]
        for p in pairs(answers, options)
    ]
    made.append(
        render(
            "table.html",
            caption="two on the same page: McNemar's exact test, Holm's correction",
            heads=["", "only the first", "only the second", "p"],
            rows=lines,
        )
    )
    return made


def _metrics(surveys: Sequence[Survey], pools: Sequence[Pool]) -> "list[Metric]":
    pool = next((pool for pool in pools if pool.name == surveys[0].pool), None)
    if pool is None or not any(item.scores for item in pool.items):
        return []
    from mitune.survey.metrics import with_metrics  # and torch, which other results do not need

    return with_metrics(surveys, pool)


def _combinations(answers: Sequence[Answer], options: Sequence[str]) -> Markup:
    """How often each combination was chosen (Table 3)."""
    rows = []
    for size in range(len(options) + 1):
        for chosen in combinations(options, size):
            count = sum(answer.chosen == set(chosen) for answer in answers)
            rows.append([" and ".join(chosen) or "none", count, str(share(count, len(answers)))])
    return render(
        "table.html", caption="exactly these were chosen", heads=["", "answers", "share"], rows=rows
    )
