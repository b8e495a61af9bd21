"""Curves of quality against bitrate, or against the steps of training, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

RATE = "kbit/s"
WIDTH, HEIGHT = 380, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34


@dataclass(frozen=True)
class Point:
    """rate: kbit/s, or steps; low, high: None for a single recording."""

    rate: float
    mean: float
    low: float | None
    high: float | None
    count: int
    setting: str


def series(content: Mapping[str, Any], metric: str, names: Sequence[str]) -> dict[int, list[Point]]:
    """Of one metric, against the bitrate: number of the system -> points."""
    found: dict[int, list[Point]] = {}
    for cell in content["cells"]:
        if metric in cell["metrics"]:
            found.setdefault(names.index(cell["model"]), []).append(point(cell, metric, cell["bitrate"] / 1000))
    return found


def point(cell: Mapping[str, Any], metric: str, place: float) -> Point:
    one = cell["metrics"][metric]
    return Point(place, one["mean"], one["low"], one["high"], one["n"], cell["setting"])


def heading(facts: Mapping[str, Any]) -> str:
    return f'<h3>{escape(facts["title"])} <span class="unit">{escape(facts["unit"])}, {facts["better"]} is better</span></h3>'


def chart(
    series: Mapping[int, Sequence[Point]], names: Sequence[str], title: str, digits: int, lines: Mapping[str, float] = {}, unit: str = RATE,
) -> str:
    """One chart. series: number of the system (its colour) -> points; lines: across, with their words; unit: RATE, on a logarithmic axis,
    or another, on a linear one."""
    points = [point for each in series.values() for point in each]
    ends = [end for point in points for end in (point.low, point.high, point.mean) if end is not None] + list(lines.values())
    rates = [point.rate for point in points]
    x = _log_axis(min(rates), max(rates)) if unit == RATE else _linear_axis(min(rates), max(rates))
    ticks = nice(min(ends), max(ends))
    low, high = min(ticks[0], *ends), max(ticks[-1], *ends)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} against {"bitrate" if unit == RATE else unit}">']
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y(tick) + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _rate_ticks(min(rates), max(rates)) if unit == RATE else _inside(min(rates), max(rates)):
        parts.append(f'<path class="grid" d="M{x(tick):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{unit}</text>')
    for value in lines.values():
        parts.append(f'<path class="across" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>')
    for number, each in series.items():
        each = sorted(each, key=lambda point: point.rate)
        parts.append(f'<g class="s s{number % 8}" data-s="{number}">')
        banded = [point for point in each if point.low is not None]
        if len(banded) > 1:
            upper = " ".join(f"{x(point.rate):.1f},{y(point.high):.1f}" for point in banded)
            lower = " ".join(f"{x(point.rate):.1f},{y(point.low):.1f}" for point in reversed(banded))
            parts.append(f'<polygon class="band" points="{upper} {lower}"/>')
        elif banded:
            parts.append(f'<path class="bar" d="M{x(banded[0].rate):.1f} {y(banded[0].low):.1f}V{y(banded[0].high):.1f}"/>')
        line = " ".join(f"{x(point.rate):.1f},{y(point.mean):.1f}" for point in each)
        parts.append(f'<polyline class="line" points="{line}"/>')
        for point in each:
            words = escape(_words(point, names[number], digits, unit))
            parts.append(f"{_mark(number, x(point.rate), y(point.mean))}<title>{words}</title></path>")
        parts.append("</g>")
    for words, value in lines.items():  # over what they cross
        parts.append(f'<text class="tick over" x="{WIDTH - RIGHT}" y="{y(value) - 3.5:.1f}" text-anchor="end">{escape(words)}</text>')
    return "".join([*parts, "</svg>"])


def _words(point: Point, name: str, digits: int, unit: str) -> str:
    interval = "" if point.low is None else f" [{point.low:.{digits}f}, {point.high:.{digits}f}]"
    place = f"{point.rate:.2f}" if unit == RATE else f"{point.rate:g}"
    return f"{name} {point.setting}: {place} {unit}, {point.mean:.{digits}f}{interval}, {point.count} recordings"


SHAPES = (
    "M{l} {y}a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0 -7.2 0", "M{l} {t}h6.6v6.6h-6.6z", "M{x} {tt}l4.4 7.6h-8.8z",
    "M{x} {td}l4.6 4.6l-4.6 4.6l-4.6 -4.6z",
)


def _mark(number: int, x: float, y: float) -> str:
    """The start of a path: a disc, square, triangle or rhombus, so that colours are not all that tells systems apart."""
    shape = SHAPES[number % len(SHAPES)]
    left = x - (3.6 if number % len(SHAPES) == 0 else 3.3)
    places = {"l": left, "x": x, "y": y, "t": y - 3.3, "tt": y - 4.8, "td": y - 4.6}
    return f'<path class="dot" d="{shape.format(**{key: f"{value:.1f}" for key, value in places.items()})}">'


def mark(number: int) -> str:
    """The mark of a system, for a legend."""
    return f'<svg class="s s{number % 8} mark" viewBox="0 0 14 14" aria-hidden="true">{_mark(number, 7, 7)}</path></svg>'


def _log_axis(low: float, high: float):
    if high / low < 1.2:
        low, high = low / 1.3, high * 1.3
    first, last = math.log(low), math.log(high)
    pad = 0.06 * (last - first)
    return lambda rate: LEFT + (math.log(rate) - first + pad) / (last - first + 2 * pad) * (WIDTH - LEFT - RIGHT)


def _linear_axis(low: float, high: float):
    span = high - low or 1.0
    return lambda place: LEFT + ((place - low) / span * 0.88 + 0.06) * (WIDTH - LEFT - RIGHT)


def _inside(low: float, high: float) -> list[float]:
    """Round numbers between both."""
    return [tick for tick in nice(low, high) if low <= tick <= high] or [low]


def _rate_ticks(low: float, high: float) -> list[float]:
    """At most seven of 0.1, 0.2, 0.5, 1, 2, 4, 8, 16, ..."""
    doubled = [2.0**k for k in range(-6, 12)]
    ticks = [tick for tick in doubled if low * 0.9 <= tick <= high * 1.1] or [round(low, 2)]
    return ticks if len(ticks) <= 7 else ticks[::2]


def nice(low: float, high: float) -> list[float]:
    """Three to seven round numbers over a span; the span lies inside of them but for less than one step."""
    span = high - low or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= 5)
    first = math.floor(low / step + 1e-9)
    ticks = [round(step * k, 10) for k in range(first, math.ceil(high / step - 1e-9) + 1)]
    return ticks if len(ticks) > 1 else [ticks[0], round(ticks[0] + step, 10)]
