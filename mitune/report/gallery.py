"""The pools of a set, a row of small pictures for each prompt, the best first."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from PIL import Image

from mitune.report.charts import strip
from mitune.report.page import render
from mitune.report.sheets import sheet

FEW = 2000
"""So many pictures or fewer are shown large."""
_LARGE, _SMALL = 112, 64


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A candidate.

    Attributes:
        score: may be non-finite.
        kept: whether the set kept it.
        pruned: whether it was dropped before its score was complete.
        picture: None: its latent is not stored.
    """

    score: float
    kept: bool
    pruned: bool = False
    picture: Image.Image | None = None


def gallery(
    pools: Iterable[tuple[str, Sequence[Shown]]], *, unit: str, large: bool, place: str = "pools"
) -> Markup:
    """The pools of prompts, as HTML.

    Args:
        pools: (prompt, its candidates).
        unit: of the scores.
        large: whether small pictures are less small, where they are few.
        place: of the gallery in the page, an identifier.
    """
    cell = _LARGE if large else _SMALL
    shown = [_pool(prompt, candidates, unit, cell) for prompt, candidates in pools]
    return render("gallery.html", pools=shown, place=place)


def _pool(prompt: str, candidates: Sequence[Shown], unit: str, cell: int) -> dict[str, Any]:
    ranked = sorted(candidates, key=_rank)
    pictured = [c for c in ranked if c.picture is not None]
    pictures = [c.picture for c in pictured if c.picture is not None]
    whole = [c for c in ranked if math.isfinite(c.score) and not c.pruned]
    kept = sum(c.kept for c in ranked)
    told = f"{len(ranked)} candidates, {kept} kept"
    if whole:
        told += f"; {whole[0].score:.1f} to {whole[-1].score:.1f} {unit}"
    if pruned := sum(c.pruned for c in ranked):
        told += f"; {pruned} dropped early"
    found: dict[str, Any] = {
        "prompt": prompt,
        "told": told,
        "best": whole[0].score if whole else -1e30,
        "spread": whole[0].score - whole[-1].score if whole else 0.0,
        "sheet": None,
        "strip": Markup(),
    }
    if pictured:
        made = sheet(pictures, cell)
        found |= {
            "sheet": made.address,
            "columns": made.columns,
            "width": made.width,
            "height": made.height,
            "cells": [{"score": _told(c), "kept": c.kept} for c in pictured],
        }
    if len(pictured) < len(ranked) and whole:
        found["strip"] = strip(
            [c.score for c in whole],
            [c.kept for c in whole],
            label=f"scores of {prompt}: {told}",
        )
    return found


def _rank(candidate: Shown) -> tuple[bool, bool, float]:
    """Best first; what is pruned or not finite comes last."""
    finite = math.isfinite(candidate.score)
    return (not finite, candidate.pruned, -candidate.score if finite else 0.0)


def _told(candidate: Shown) -> str:
    if not math.isfinite(candidate.score):
        return "not finite"
    return f"{candidate.score:.1f}" + (" pruned" if candidate.pruned else "")
