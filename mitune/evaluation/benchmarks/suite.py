"""What a benchmark asks: its prompts by category, and which metric each category has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mitune.core.errors import UserError
from mitune.core.prompts import read_prompts

COMPBENCH = "t2i-compbench"
GENEVAL2 = "geneval2"
COMPLEX = "complex"
BLIP, SPATIAL, CLIP = "blip-vqa", "spatial", "clip"

_COMPBENCH = {
    "color": (BLIP,),
    "shape": (BLIP,),
    "texture": (BLIP,),
    "spatial": (SPATIAL,),
    "non_spatial": (CLIP,),
    COMPLEX: (BLIP, SPATIAL, CLIP),
}
"""Its categories and their metrics (Huang et al., arXiv 2307.06350, section 4.4)."""

PAPER: Mapping[str, Mapping[str, float]] = {
    "SD-2.1-base": {
        "color": 49.65,
        "shape": 42.71,
        "texture": 49.99,
        "spatial": 15.77,
        "non_spatial": 66.23,
        "complex": 50.53,
    },
    "MI-Tune": {
        "color": 61.57,
        "shape": 48.40,
        "texture": 58.27,
        "spatial": 15.93,
        "non_spatial": 67.77,
        "complex": 53.54,
    },
}
"""Percent, of Wang et al., Table 1. Its non-spatial and complex prompts are scored by BLIP-VQA
alone."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A benchmark.

    Attributes:
        name: t2i-compbench, geneval2, or the name of a file.
        prompts: by category.
        metrics: by category, the scorers as a user would name them.
        of_complex: for T2I-CompBench's 3-in-1 the metrics whose mean a complex prompt has, by
            prompt; all three for those that are not here.
    """

    name: str
    prompts: Mapping[str, Sequence[str]]
    metrics: Mapping[str, Sequence[str]]
    of_complex: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def scores(self, metric: str, category: str) -> bool:
        """Whether a metric scores a category: the benchmark's own metrics where they are named,
        all others everywhere."""
        own = any(metric in metrics for metrics in self.metrics.values())
        return metric in self.metrics[category] or not own


def read_suite(given: str, limit: int | None = None) -> Suite:
    """Read a benchmark: ``t2i-compbench=FOLDER`` with its lists ``color_val.txt`` and so on,
    ``geneval2=FILE`` with its JSON lines, or a file of prompts.

    Args:
        given: as above.
        limit: only the first so many prompts of each category.

    Raises:
        UserError: a file is missing, or it is not a list of prompts.
    """
    name, _, place = given.partition("=")
    if name == COMPBENCH:
        return _compbench(Path(place or "."), limit)
    if name == GENEVAL2:
        if not place:
            raise UserError("geneval2 needs its file: give geneval2=FILE, JSON lines")
        return _geneval2(Path(place), limit)
    return Suite(
        name=Path(given).name, prompts={"all": read_prompts(given, limit)}, metrics={"all": ()}
    )


def _compbench(folder: Path, limit: int | None) -> Suite:
    lists = {name: folder / f"{name}_val.txt" for name in _COMPBENCH}
    found = {name: path for name, path in lists.items() if path.is_file()}
    if not found:
        raise UserError(
            f"{folder} has no list of T2I-CompBench: expected color_val.txt and so on; give "
            "t2i-compbench=FOLDER"
        )
    return Suite(
        name=COMPBENCH,
        prompts={name: read_prompts(path, limit) for name, path in found.items()},
        metrics={name: _COMPBENCH[name] for name in found},
        of_complex=_subsets(folder),
    )


def _subsets(folder: Path) -> dict[str, tuple[str, ...]]:
    """Of complex prompts about a place the mean of BLIP-VQA and the spatial metric, of those about
    an action that of BLIP-VQA and CLIP; ``key`` tells how prompts are compared."""
    found: dict[str, tuple[str, ...]] = {}
    # The published code looks among the spatial ones first.
    for kind, metrics in (("action", (BLIP, CLIP)), ("spatial", (BLIP, SPATIAL))):
        path = folder / f"complex_val_{kind}.txt"
        if path.is_file():
            found |= dict.fromkeys(map(key, read_prompts(path)), metrics)
    return found


def key(prompt: str) -> str:
    """A complex prompt as T2I-CompBench's lists are compared: to its first full stop, in small
    letters."""
    return prompt.split(".")[0].lower()


def _geneval2(path: Path, limit: int | None) -> Suite:
    from mitune.scorers.vision_language import read_questions

    prompts = list(read_questions(path))[:limit]
    if not prompts:
        raise UserError(f"questions {path} has no prompt: expected JSON lines")
    return Suite(name=GENEVAL2, prompts={"all": prompts}, metrics={"all": ()})
