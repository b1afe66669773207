"""How the scores of a set lie in each category of its prompts."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from mitune.report.charts import histogram
from mitune.report.page import Section, render
from mitune.sets import FineTuningSet
from mitune.worlds.known import WORLDS

_EVERY = 1_000_000


def categories_of(found: FineTuningSet, given: Mapping[str, str]) -> dict[int, str]:
    """The category of each prompt of a set, by the prompt's number: the given ones, or those of the
    embedded world whose model made the set. Prompts of no known category are left out."""
    world = WORLDS.get(str(found.notes.get("model")))
    known = dict(given)
    if not known and world is not None:
        for split in ("test", "train"):
            known |= world.first_prompts(split, _EVERY)
    return {n: known[prompt] for n, prompt in enumerate(found.prompts) if prompt in known}


def category_section(
    title: str, rows: Sequence[tuple[int, float, bool]], kinds: Mapping[int, str], unit: str
) -> list[Section]:
    """A histogram for each category, of all candidates and of the kept ones; no section for fewer
    than two categories.

    Args:
        title: of the section.
        rows: (number of the prompt, score, whether it is kept) of each scored candidate.
        kinds: the category of prompts by number.
        unit: of the scores.
    """
    groups: dict[str, dict[str, list[float]]] = {}
    for prompt, score, kept in rows:
        if prompt in kinds:
            own = groups.setdefault(kinds[prompt], {"all": [], "kept": []})
            own["all"].append(score)
            if kept:
                own["kept"].append(score)
    if len(groups) < 2:
        return []
    figures = [
        render(
            "figure.html",
            content=histogram(own, x=f"score, {unit}"),
            caption=f"{name}: {len(own['all'])} candidates.",
        )
        for name, own in groups.items()
    ]
    return [Section(title=title, body=Markup("").join(figures))]
