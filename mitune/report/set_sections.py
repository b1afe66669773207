"""What a fine-tuning set shows."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from PIL import Image

from mitune.core.errors import UserError
from mitune.core.images import as_pictures
from mitune.methods.telemetry import cost_of
from mitune.models.protocol import LatentModel
from mitune.report.category_section import categories_of, category_section
from mitune.report.charts import histogram, lines
from mitune.report.gallery import FEW, Shown, gallery
from mitune.report.page import Section, render
from mitune.report.source import source
from mitune.sets import FineTuningSet

_BATCH = 64
_NAMES = {
    "candidates_per_prompt": "candidates of each prompt",
    "keep": "to keep of each prompt",
    "short_prompts": "prompts with fewer",
    "score_mean_all": "mean score of all",
    "score_mean_kept": "mean score of the kept",
    "non_finite": "not finite",
    "pruned": "dropped early",
    "finished_prompts": "finished prompts",
    "processes": "processes that built it",
    "device_hours": "hours of generation, of one device",
    "candidates_per_s": "candidates a second, of one device",
    "occupancy": "occupancy of the slots",
    "kilowatt_hours": "energy of the GPUs, kWh",
    "peak_megabytes": "most memory of a process, MB",
}


def set_sections(
    folder: Path,
    model: LatentModel | None,
    name: str = "",
    categories: Mapping[str, str] | None = None,
) -> list[Section]:
    """Sections of the set in ``folder``.

    Args:
        folder: of the set.
        model: decodes the stored latents; None shows no pictures.
        name: in front of the titles, if a page shows several sets.
        categories: of prompts; None or empty takes those of the embedded model's world.

    Raises:
        UserError: the set is damaged, or the model has another autoencoder than its own.
    """
    found = FineTuningSet.open(folder)
    rows = found.table(["prompt_index", "candidate", "score", "pruned", "selected", "latent_shape"])
    columns = {c: rows[c].to_pylist() for c in ("prompt_index", "score", "pruned", "selected")}
    stored = sum(shape is not None for shape in rows["latent_shape"].to_pylist())
    summary = found.summary()
    unit = str(summary["unit"])
    known = {**summary, **cost_of(folder)}
    facts = {_NAMES.get(key, key): v for key, v in known.items() if key not in ("path", "unit")}
    overview = render("facts.html", values=facts, after=_charts(found, columns, unit))
    pictures = None if model is None or not stored else _pictures(found, _checked(model, found))
    shown = gallery(
        _pools(found, columns, pictures),
        unit=unit,
        large=stored <= FEW,
        place=f"pools-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}",
    )
    by_category = category_section(
        f"{name}scores by category".capitalize(),
        _scored(columns),
        categories_of(found, categories or {}),
        unit,
    )
    return [
        Section(title=f"{name}set".capitalize(), body=overview),
        *by_category,
        Section(title=f"{name}pools".capitalize(), body=shown),
        Section(
            title=f"{name}set: source".capitalize(),
            aside=True,
            body=source(folder, found.environment, {**found.notes, **found.settings}),
        ),
    ]


def _charts(found: FineTuningSet, columns: dict[str, list[Any]], unit: str) -> list[Markup]:
    whole = _scored(columns)
    groups = {"all": [s for _, s, _ in whole], "kept": [s for _, s, kept in whole if kept]}
    drawn = [(histogram(groups, x=f"score, {unit}"), "How the scores lie.")]
    if (terms := _terms(found)) is not None:
        told = "Mean squared difference of the two predictions at each step of generation."
        drawn.append((_path(terms, columns["selected"]), told))
        if any(columns["pruned"]):
            drawn.append((_dropped(terms), "Candidates still taking steps."))
    return [
        render("figure.html", content=content, caption=caption)
        for content, caption in drawn
        if content
    ]


def _scored(columns: dict[str, list[Any]]) -> list[tuple[int, float, bool]]:
    """Prompt's number, score and whether it is kept, of each candidate that was not pruned."""
    names = ("prompt_index", "score", "selected", "pruned")
    return [
        (prompt, score, kept)
        for prompt, score, kept, pruned in zip(*(columns[n] for n in names), strict=True)
        if not pruned and score is not None
    ]


def _path(terms: Any, kept: Sequence[bool]) -> Markup:
    """Mean over candidates of ‖Δ‖² at each step, of the kept and of the others."""
    mark = np.array(kept, dtype=bool)
    series = {}
    for name, rows in (("kept", mark), ("others", ~mark)):
        if rows.any():
            counted = np.isfinite(terms[rows]).sum(axis=0)
            finite = np.where(np.isfinite(terms[rows]), terms[rows], 0)
            sums = finite.sum(axis=0, dtype=np.float64)  # float32 may overflow
            series[name] = [
                (step + 1, float(total / count))
                for step, (total, count) in enumerate(zip(sums, counted, strict=True))
                if count
            ]
    return lines(series, x="step", y="squared difference")


def _dropped(terms: Any) -> Markup:
    going = (~np.isnan(terms)).sum(axis=0)
    points = [(step + 1, float(count)) for step, count in enumerate(going)]
    return lines({"candidates": points}, x="step", y="candidates")


def _terms(found: FineTuningSet) -> Any:
    """``[rows, steps]`` float32, NaN where a candidate took no step; None without steps."""
    column = found.table(["terms"])["terms"].combine_chunks()
    lengths = np.diff(column.offsets.to_numpy())
    if not len(lengths) or not lengths.max():
        return None
    filled = np.full((len(lengths), lengths.max()), np.nan, dtype=np.float32)
    filled[np.arange(lengths.max()) < lengths[:, None]] = column.flatten().to_numpy()
    return filled


def _checked(model: LatentModel, found: FineTuningSet) -> LatentModel:
    there = found.settings.get("model_parts", {}).get("vae")
    here = dict(model.parts).get("vae")
    if there is not None and there != here:
        raise UserError(
            f"set {found.path} was made with another autoencoder than the model's: give the set's "
            "own model as --model"
        )
    return model


def _pictures(found: FineTuningSet, model: LatentModel) -> Iterator[Image.Image | None]:
    """The picture of every row in order, None where no latent is stored."""
    for part in found.parts(["latent", "latent_shape"]):
        latents = [
            # Copy: Arrow's memory is read-only.
            torch.from_numpy(latent.values.to_numpy().copy()).view(shape.as_py())
            if latent.is_valid
            else None
            for latent, shape in zip(part["latent"], part["latent_shape"], strict=True)
        ]
        known = [latent for latent in latents if latent is not None]
        made: list[Image.Image] = []
        for start in range(0, len(known), _BATCH):
            some = torch.stack(known[start : start + _BATCH]).to(model.device)
            made += as_pictures(model.decode(some))
        left = iter(made)
        yield from (None if latent is None else next(left) for latent in latents)


def _pools(
    found: FineTuningSet,
    columns: dict[str, list[Any]],
    pictures: Iterator[Image.Image | None] | None,
) -> Iterator[tuple[str, list[Shown]]]:
    prompts = found.prompts
    pool: list[Shown] = []
    last: int | None = None
    order = ("prompt_index", "score", "pruned", "selected")
    for index, score, pruned, kept in zip(*(columns[name] for name in order), strict=True):
        if last is not None and index != last:
            yield prompts[last], pool
            pool = []
        last = index
        picture = None if pictures is None else next(pictures)
        value = math.nan if score is None else score
        pool.append(Shown(score=value, kept=kept, pruned=pruned, picture=picture))
    if last is not None:
        yield prompts[last], pool
