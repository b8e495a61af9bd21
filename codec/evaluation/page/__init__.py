"""report.html: one file that needs nothing else, with curves, a table, sounds and codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from codec.evaluation.page import clips, curves, machines, runs
from codec.evaluation.page.curves import heading, mark
from codec.evaluation.sweep.summary import Group

VERDICTS = {"better": '<span class="good">better</span>', "worse": '<span class="bad">worse</span>'}


def build(out: Path, content: Mapping[str, Any], groups: Sequence[Group], heard: Sequence[str]) -> str:
    """The page of a report. content: as in report.json; groups: its cells; heard: recordings to listen to."""
    names = list(dict.fromkeys(group.system for group in groups))
    sections = [
        ("curves", "Quality against bitrate", _curves(content, names)),
        ("steps", "Quality against steps of training", runs.section(content, names)),
        ("tasks", "Machines in place of ears", machines.section(content, names)),
        ("compare", "What moved", _compare(content)),
        ("table", "All figures", _table(content, names)),
        ("listen", "Listen", clips.section(out, groups, heard, names)),
        ("codes", "Codes", _codes(content, names)),
        ("problems", "Left out and failed", _problems(content)),
        ("metrics", "What is measured", _metrics(content)),
    ]
    sections = [one for one in sections if one[2]]
    links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title, _ in sections)
    body = "".join(f'<h2 id="{key}">{escape(title)}</h2>{text}' for key, title, text in sections)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Codecs compared</title><style>{_file('page.css')}</style><main><h1>Codecs compared</h1>{_head(content)}"
        f"<nav>{links}</nav>{body}</main><script>{_file('page.js')}</script></html>\n"
    )


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _head(content: Mapping[str, Any]) -> str:
    settings = content["settings"]
    most = max((cell["seconds"] for cell in content["cells"]), default=0)
    failed = len({one["file"] for one in content["failures"] if one["what"] == "not coded"})
    words = f"{settings['files']} recordings of {Path(settings['data']).name or settings['data']}, {most / 60:.1f} min coded"
    words += f"; {failed} of them could not be coded by some" if failed else ""
    if settings.get("seconds"):
        words += f"; the first {settings['seconds']:g} s of each"
    if settings.get("rate"):
        words += f"; at {settings['rate']} Hz"
    return f'<p class="soft">{escape(words)}. Means over recordings; bands and brackets are their 95 % intervals.</p>'


def _curves(content: Mapping[str, Any], names: Sequence[str]) -> str:
    charts = []
    for metric, facts in content["metrics"].items():
        if facts["level"] != "task" and (series := curves.series(content, metric, names)):
            charts.append(f'<div class="card">{heading(facts)}{curves.chart(series, names, facts["title"], facts["digits"])}</div>')
    if not charts:
        return ""
    legend = "".join(
        f'<button type="button" data-s="{number}" aria-pressed="true">{mark(number)}{escape(name)}</button>'
        for number, name in enumerate(names)
    )
    return f'<div class="legend">{legend}</div><div class="cards">{"".join(charts)}</div>'


def _table(content: Mapping[str, Any], names: Sequence[str]) -> str:
    metrics = {
        name: facts for name, facts in content["metrics"].items() if any(name in cell["metrics"] for cell in content["cells"])
    }
    heads = [_heading("System", "ascending"), _heading("kbit/s", "ascending"), _heading("Files", "descending")]
    heads += [_heading(facts["title"], "descending" if facts["better"] == "higher" else "ascending") for facts in metrics.values()]
    heads += [_heading("Encoding", "descending", "× real time"), _heading("Decoding", "descending", "× real time")]
    rows = []
    for cell in content["cells"]:
        number = names.index(cell["model"])
        failed = f' <small>{cell["failed"]} failed</small>' if cell["failed"] else ""
        columns = [
            f'<td data-v="{escape(cell["model"])}">{mark(number)}{escape(cell["model"])} <small>{escape(cell["setting"])}</small></td>',
            f'<td data-v="{cell["bitrate"]}">{cell["bitrate"] / 1000:.2f}</td>',
            f'<td data-v="{cell["files"]}">{cell["files"]}{failed}</td>',
        ]
        columns += [_figure(cell["metrics"].get(name), facts["digits"], cell["files"]) for name, facts in metrics.items()]
        columns += [_plain(cell["encode_x_realtime"], 0), _plain(cell["decode_x_realtime"], 0)]
        rows.append(f'<tr data-s="{number}">{"".join(columns)}</tr>')
    return (
        f'<div class="wide"><table class="sort"><thead><tr>{"".join(heads)}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        '<p class="soft">Speed is by processor time of one thread, programs that are started included; a model encodes all its codebooks once.</p>'
    )


def _heading(text: str, first: str, unit: str = "") -> str:
    extra = f'<br><span class="unit">{unit}</span>' if unit else ""
    return f'<th data-first="{first}"><button type="button">{escape(text)}{extra}</button></th>'


def _figure(one: Mapping[str, Any] | None, digits: int, files: int) -> str:
    if one is None:
        return '<td data-v=""></td>'
    text = f"{one['mean']:.{digits}f}"
    if one["low"] is not None:
        text += f" <small>[{one['low']:.{digits}f}, {one['high']:.{digits}f}]</small>"
    if one["n"] != files:
        text += f" <small>n={one['n']}</small>"
    return f'<td data-v="{one["mean"]}">{text}</td>'


def _plain(value: float | None, digits: int) -> str:
    return '<td data-v=""></td>' if value is None else f'<td data-v="{value}">{value:.{digits}f}</td>'


def _codes(content: Mapping[str, Any], names: Sequence[str]) -> str:
    cards = []
    for one in content.get("codes", []):
        number = names.index(one["model"])
        rows = []
        for index, book in enumerate(one["codebooks"], 1):
            full, used = (100 * share for share in (book["entropy"] / book["bits"], book["used"]))
            rows.append(
                f'<span class="soft">{index}</span><span><i><b style="width:{full:.1f}%"></b></i>'
                f'<i class="thin"><b style="width:{used:.1f}%"></b></i></span><span>{book["entropy"]:.2f} of {book["bits"]:.4g} bit, {used:.0f} % used</span>'
            )
        rate = sum(book["entropy"] for book in one["codebooks"]) / one["frame_seconds"] / 1000 if one["frame_seconds"] else 0
        rows.append(_coded(content, one["model"]))
        cards.append(
            f'<div class="card s{number % 8}"><h3>{mark(number)} {escape(one["model"])} '
            f'<span class="unit">{one["frames"]} frames, {rate:.2f} kbit/s by entropy</span></h3><div class="books">{"".join(rows)}</div></div>'
        )
    if not cards:
        return ""
    return (
        '<p class="soft">For each codebook the entropy of its codes over all recordings (thick) and the share of its entries that occur (thin). '
        f'Both come out too low for few frames.</p><div class="cards">{"".join(cards)}</div>'
    )


def _coded(content: Mapping[str, Any], model: str) -> str:
    """What entropy coding makes of the codes at each setting."""
    found = [cell for cell in content["cells"] if cell["model"] == model and {"coded", "saved"} <= cell["metrics"].keys()]
    words = [
        f"{cell['setting']} {cell['metrics']['coded']['mean']:.2f} ({cell['metrics']['saved']['mean']:.1f} % saved)" for cell in found
    ]
    return f'<span class="soft all">kbit/s after entropy coding: {escape(", ".join(words))}</span>' if found else ""


def _compare(content: Mapping[str, Any]) -> str:
    compare = content.get("compare")
    if not compare:
        return ""
    rows = []
    for one in compare["rows"]:
        verdict = VERDICTS.get(one["verdict"], "no difference shown")
        facts = content["metrics"][one["metric"]]
        digits = facts["digits"]
        rows.append(
            f'<tr><td data-v="{escape(one["model"])}">{escape(one["model"])} <small>{escape(one["setting"])}</small></td>'
            f'<td data-v="{escape(facts["title"])}">{escape(facts["title"])}</td>'
            f'{_plain(one["before"], digits)}{_plain(one["now"], digits)}'
            f'<td data-v="{one["change"]}">{one["change"]:+.{digits}f} <small>[{one["low"]:+.{digits}f}, {one["high"]:+.{digits}f}]'
            f'</small></td><td data-v="{one["p"]}">{one["p"]:.2g}</td><td data-v="{one["verdict"]}">{verdict}</td></tr>'
        )
    heads = [_heading(text, "ascending") for text in ("System", "Metric", "Before", "Now", "Change", "p", "Verdict")]
    words = f"Against {compare['report']}, {compare['how']}. p is adjusted for {len(rows)} comparisons (Holm); below 0.05 a verdict is given."
    if compare["unmatched"]:
        words += f" Only in one of the two: {', '.join(compare['unmatched'])}."
    return (
        f'<p class="soft">{escape(words)}</p><div class="wide"><table class="sort"><thead><tr>{"".join(heads)}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div>'
    )


def _problems(content: Mapping[str, Any]) -> str:
    rows = [("left out", one["name"], "", one["reason"]) for one in content["left_out"]]
    rows += [("note", "", "", note) for note in content["notes"]]
    rows += [
        (one["what"], one["file"], one["metrics"] if one["what"] == "not judged" else one["models"], one["reason"])
        for one in content["failures"]
    ]
    return _words(("", "What", "By", "Why"), rows) if rows else ""


def _metrics(content: Mapping[str, Any]) -> str:
    rows = [
        (facts["title"], f"{facts['unit']}, {facts['better']} is better", facts["source"], facts["licence"])
        for facts in content["metrics"].values()
    ]
    return _words(("Metric", "Unit", "Defined in", "Licence of the program"), rows)


def _words(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f'<div class="wide words"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
