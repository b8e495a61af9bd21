"""What machines still tell from decoded audio and from tokens, beside what they tell from the recordings themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from codec.evaluation.page import curves
from codec.evaluation.page.curves import heading, mark

ITSELF, CHANCE = "The recordings themselves", "Chance"


def section(content: Mapping[str, Any], names: Sequence[str]) -> str:
    tasks = {one["metric"]: one for one in content.get("tasks", [])}
    if not tasks:
        return ""
    cards = []
    for metric, one in tasks.items():
        facts = content["metrics"][metric]
        series = curves.series(content, metric, names)
        lines = {CHANCE: one["chance"]} | ({ITSELF: one["original"]["mean"]} if one["original"] else {})
        chart = curves.chart(series, names, facts["title"], facts["digits"], lines) if series else ""
        cards.append(f'<div class="card">{heading(facts)}<p class="unit">{escape(one["note"])}</p>{chart}</div>')
    rows = [_row(ITSELF, "", {metric: one["original"] for metric, one in tasks.items()}, tasks)]
    for cell in content["cells"]:
        number = names.index(cell["model"])
        name = f'{mark(number)}{escape(cell["model"])} <small>{escape(cell["setting"])}</small>'
        rows.append(_row(name, str(number), cell["metrics"], tasks))
    rows.append(_row(CHANCE, "", {metric: {"mean": one["chance"], "low": None} for metric, one in tasks.items()}, {}))
    heads = "".join(f"<th>{escape(text)}</th>" for text in ("", *(content["metrics"][metric]["title"] for metric in tasks)))
    return (
        '<p class="soft">Right answers, in per cent, of small networks that are trained on the recordings as each system decodes them, or '
        "on its tokens, and asked about recordings that they have not heard; brackets as above. What a codec costs is what is missing to "
        f'the recordings themselves.</p><div class="cards">{"".join(cards)}</div><div class="wide after"><table><thead><tr>{heads}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div>'
    )


def _row(name: str, number: str, figures: Mapping[str, Any], tasks: Mapping[str, Any]) -> str:
    """tasks: whose figures of the recordings themselves the loss is told against."""
    columns = []
    for metric in figures if not tasks else tasks:
        one = figures.get(metric)
        if one is None:
            columns.append("<td></td>")
            continue
        text = f"{100 * one['mean']:.1f}"
        if one["low"] is not None:
            text += f" <small>[{100 * one['low']:.1f}, {100 * one['high']:.1f}]</small>"
        original = tasks.get(metric, {}).get("original") if number else None
        if original:
            text += f" <small>{100 * (one['mean'] - original['mean']):+.1f}</small>"
        columns.append(f"<td>{text}</td>")
    return f'<tr{f" data-s={chr(34)}{number}{chr(34)}" if number else ""}><td>{name}</td>{"".join(columns)}</tr>'
