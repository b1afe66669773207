"""Charts as SVG, in the page's own colours; lines and bars differ by more than colour."""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

Point = tuple[float, float]

_WIDTH, _HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 26, 44
_KINDS = 4
"""Colours and dashes of the style sheet; a fifth series looks like the first."""


def lines(series: Mapping[str, Sequence[Point]], *, x: str, y: str) -> Markup:
    """A line for each series of (x, y); points that are not finite are left out.

    Args:
        series: by name.
        x, y: what the axes show.
    """
    known = {
        name: [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
        for name, points in series.items()
    }
    known = {name: points for name, points in known.items() if points}
    if not known:
        return Markup()
    frame = _Frame([p for points in known.values() for p in points])
    drawn = [
        f'<polyline class="line l{kind % _KINDS}" points="{frame.path(points)}"/>'
        for kind, points in enumerate(known.values())
    ]
    told = "; ".join(
        f"{name} from {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in known.items()
    )
    return _svg(f"{y} by {x}: {told}", frame, x, y, drawn, list(known) if len(series) > 1 else [])


def histogram(groups: Mapping[str, Sequence[float]], *, x: str, bins: int = 40) -> Markup:
    """Shares of each group's finite values in equal bins: the first group filled, a second one as
    an outline.

    Args:
        groups: by name, one or two.
        x: what the values are.
        bins: how many.
    """
    known = {name: [v for v in values if math.isfinite(v)] for name, values in groups.items()}
    known = {name: values for name, values in known.items() if values}
    if not known:
        return Markup()
    every = [v for values in known.values() for v in values]
    low, high = min(every), max(every)
    width = (high - low) / bins or 1.0
    heights: dict[str, list[float]] = {}
    for name, values in known.items():
        counts = [0] * bins
        for value in values:
            counts[min(int((value - low) / width), bins - 1)] += 1
        heights[name] = [count / len(values) for count in counts]
    top = max(share for shares in heights.values() for share in shares)
    frame = _Frame([(low, 0.0), (low + bins * width, top)])
    drawn = []
    for kind, shares in enumerate(heights.values()):
        corners = [(low, 0.0)]
        for place, share in enumerate(shares):
            corners += [(low + place * width, share), (low + (place + 1) * width, share)]
        corners.append((low + bins * width, 0.0))
        drawn.append(f'<polygon class="b{min(kind, 1)}" points="{frame.path(corners)}"/>')
    told = "; ".join(
        f"{name}: {len(values)} values, mean {sum(values) / len(values):.4g}"
        for name, values in known.items()
    )
    return _svg(f"{x}: {told}", frame, x, "share", drawn, list(known) if len(known) > 1 else [])


def strip(values: Sequence[float], marked: Sequence[bool], *, label: str) -> Markup:
    """A small axis with a dot for each value; marked ones are large.

    Args:
        values: finite.
        marked: for each value.
        label: what the values are.
    """
    if not values:
        return Markup()
    low, high = min(values), max(values)
    span = high - low or 1.0

    def at(value: float) -> float:
        return 8 + (value - low) / span * 624

    dots = [f'<circle class="other" cx="{at(v):.1f}" cy="10" r="3"/>' for v in values]
    dots += [
        f'<circle class="best" cx="{at(v):.1f}" cy="10" r="6"/>'
        for v, mark in zip(values, marked, strict=True)
        if mark
    ]
    ends = (
        f'<text x="2" y="32">{low:.1f}</text><text x="638" y="32" text-anchor="end">{high:.1f}'
        "</text>"
    )
    return Markup(
        f'<svg viewBox="0 0 640 36" role="img" aria-label="{escape(label)}">'
        f'<line class="axis" x1="2" x2="638" y1="10" y2="10"/>{"".join(dots)}{ends}</svg>'
    )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from ``low`` to ``high``, at most ``most``, of steps 1, 2 or 5 times a power of
    ten."""
    if not high > low:
        return [low]
    rough = (high - low) / (most - 1)
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * factor for factor in (1, 2, 5, 10) if scale * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


class _Frame:
    """Where values lie in the picture."""

    def __init__(self, points: Sequence[Point]) -> None:
        xs, ys = zip(*points, strict=True)
        self.x, self.y = _wide(min(xs), max(xs)), _wide(min(ys), max(ys))

    def across(self, value: float) -> float:
        low, high = self.x
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def up(self, value: float) -> float:
        low, high = self.y
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def path(self, points: Sequence[Point]) -> str:
        return " ".join(f"{self.across(x):.1f},{self.up(y):.1f}" for x, y in points)


def _wide(low: float, high: float) -> tuple[float, float]:
    """A range that is not empty."""
    room = 0.5 + 0.05 * abs(low)
    return (low, high) if high > low else (low - room, high + room)


def _svg(
    label: str, frame: _Frame, x: str, y: str, drawn: Sequence[str], names: Sequence[str]
) -> Markup:
    parts = []
    bottom = _HEIGHT - _BOTTOM
    for value in ticks(*frame.x):
        at = frame.across(value)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{bottom + 15}" text-anchor="middle">{value:.6g}</text>'
        )
    for value in ticks(*frame.y):
        at = frame.up(value)
        parts.append(
            f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        )
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:.6g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x)}</text>'
        f'<text transform="translate(12 {(_TOP + bottom) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y)}</text>'
    )
    at = float(_LEFT)
    for kind, name in enumerate(names):
        parts.append(
            f'<line class="line l{kind % _KINDS}" x1="{at:.0f}" x2="{at + 24:.0f}" y1="10" '
            f'y2="10"/><text x="{at + 30:.0f}" y="14">{escape(name)}</text>'
        )
        at += 54 + 7 * len(name)
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}{''.join(drawn)}</svg>"
    )
