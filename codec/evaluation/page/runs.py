"""Quality against the steps of training, where several models of a run are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from codec.evaluation.page import curves
from codec.evaluation.page.curves import Point, heading, mark

STEPS = "steps"


def section(content: Mapping[str, Any], names: Sequence[str]) -> str:
    """A curve for each run and setting. Cells of models of steps have `run` and `step`."""
    cells = [cell for cell in content["cells"] if "step" in cell]
    lines = list(dict.fromkeys((cell["run"], cell["setting"]) for cell in cells))
    if len({(cell["run"], cell["step"]) for cell in cells}) < 2:
        return ""
    titles = [f"{run} {setting}" for run, setting in lines]
    charts = []
    for metric, facts in content["metrics"].items():
        series: dict[int, list[Point]] = {}
        for cell in cells:
            if metric in cell["metrics"]:
                series.setdefault(lines.index((cell["run"], cell["setting"])), []).append(curves.point(cell, metric, cell["step"]))
        if series:
            chart = curves.chart(series, titles, facts["title"], facts["digits"], unit=STEPS).replace(" data-s=", " data-line=")
            charts.append(f'<div class="card">{heading(facts)}{chart}</div>')
    legend = "".join(f"<span>{mark(number)}{escape(title)}</span>" for number, title in enumerate(titles))
    return f'<p class="key">{legend}</p><div class="cards">{"".join(charts)}</div>'
