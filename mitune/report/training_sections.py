"""What a training shows."""

import json
from pathlib import Path
from typing import Any

from mitune.adapters.run_folder import METRICS, RUN
from mitune.core.errors import UserError
from mitune.core.reading import read_file
from mitune.report.charts import Point, lines
from mitune.report.page import Section, render
from mitune.report.source import source

_CHARTS = (
    ("loss", "loss", "The loss of each step, which noise and timesteps make uneven."),
    ("held_out_mi", "nats", "Mean point-wise mutual information of held-out prompts' pictures."),
    ("lr", "learning rate", "The learning rate."),
    ("grad_norm", "norm", "The norm of the gradient before it is clipped."),
)
_SMOOTH = 0.9
"""Weight of the past in the smoothed loss."""


def training_sections(folder: Path, name: str = "") -> list[Section]:
    """Sections of the training run in ``folder``; ``name`` stands in front of the titles."""
    run = json.loads(read_file(folder / RUN))
    steps = _steps(folder / METRICS)
    seconds = sum(float(step.get("seconds", 0)) for step in steps)
    smooth = _smooth(_points(steps, "loss"))
    facts = {
        "steps": len(steps),
        "of": run["settings"]["config"]["iterations"],
        "pairs": run["settings"]["set"]["pairs"],
        "first loss": steps[0].get("loss") if steps else None,
        "last loss, smoothed": smooth[-1][1] if smooth else None,
        "seconds of its steps": seconds,
    }
    drawn = []
    for key, label, caption in _CHARTS:
        points = _points(steps, key)
        series = {label: points}
        if key == "loss":
            series["smoothed"] = smooth
        if len(points) > 1:
            content = lines(series, x="step", y=label)
            drawn.append(render("figure.html", content=content, caption=caption))
    return [
        Section(
            title=f"{name}training".capitalize(),
            body=render("facts.html", values=facts, after=drawn),
        ),
        Section(
            title=f"{name}training: source".capitalize(),
            aside=True,
            body=source(folder, run["environment"], {"model": run["model"], **run["settings"]}),
        ),
    ]


def _steps(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics; one that a killed process left unfinished is not counted."""
    found = []
    lines_of = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines_of, start=1):
        try:
            found.append(dict(json.loads(line)))
        except ValueError:
            if number < len(lines_of):
                raise UserError(
                    f"{path} is damaged in line {number}: expected the lines that a training wrote"
                ) from None
    return found


def _points(steps: list[dict[str, Any]], key: str) -> list[Point]:
    return [(float(step["step"]), float(step[key])) for step in steps if step.get(key) is not None]


def _smooth(points: list[Point]) -> list[Point]:
    """An exponential moving average, without the bias of its beginning."""
    found, mean, weight = [], 0.0, 0.0
    for x, y in points:
        mean, weight = _SMOOTH * mean + (1 - _SMOOTH) * y, _SMOOTH * weight + (1 - _SMOOTH)
        found.append((x, mean / weight))
    return found
