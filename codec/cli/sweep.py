"""Measure which codec sounds how good at which bitrate.

DATA is a folder of recordings (LibriSpeech, VCTK, DAPS, ESC-50 and MUSDB18-HQ are known by their layout), a list of paths (.txt) or a
manifest. Every system codes every recording at its settings nearest to --bitrates, and all that comes out is compared with what went
in. Systems are
  NAME, DIR, hf:OWNER/NAME   models, as for `codec encode --model`
  RUN, RUN@last, RUN@best    all checkpoints of a folder of `codec train`, or one; RUN@steps those of steps
  MODEL+30                   a model whose codes are refined in 30 steps, as by `codec encode --refine 30`
  MODEL+30v, MODEL+0v        the same at variable bitrates, as by --variable, and these without refinement
  opus, codec2, speex, amr-wb, lyra   where installed; one that is not is named with what installs it
The same command again goes on where it was stopped, however that was.

  codec sweep recordings/ --models speech-16k,opus,codec2 --bitrates 1,2,4 --metrics pesq,stoi --out report/
"""

from __future__ import annotations

import argparse
import math

from codec.cli.common import check_input, count, note, summary
from codec.cli.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="folder, list or manifest of recordings, or one of them")
    parser.add_argument("--models", type=_names, default=["speech-16k"], metavar="A,B", help="systems (default: speech-16k)")
    parser.add_argument("--bitrates", type=_rates, default=None, metavar="1,2,4",
                        help="kbit/s, or `own` for the usual ones of each system (default: 0.5,1,2,3,4,6,9,12)")
    parser.add_argument("--metrics", type=_names, default=None, metavar="A,B",
                        help="what to measure, or `all` (default: pesq-wb,stoi,estoi,si-sdr,mel,coded,saved); "
                        "`codec sweep . --metrics list` tells of each")
    parser.add_argument("--tasks", type=_names, default=[], metavar="A,B",
                        help="machines in place of ears: slots, speaker, keyword, sounds (probes trained on the recordings as decoded, and "
                        "on tokens), asr (dwer); without --metrics nothing else is measured")
    parser.add_argument("--out", default="report", metavar="DIR", help="folder of the results (default: report)")
    parser.add_argument("--jobs", type=_positive, metavar="N", help="processes of one thread each (default: one a core)")
    parser.add_argument("--layout", default="", help="of DATA: esc50, musdb, vctk, daps, librispeech or folder (default: by its looks)")
    parser.add_argument("--limit", type=_positive, metavar="N", help="take N recordings, spread evenly over DATA")
    parser.add_argument("--seconds", type=float, default=math.inf, metavar="S", help="take the first S seconds of each recording")
    parser.add_argument("--rate", type=_positive, metavar="HZ", help="resample recordings first (default: their own rates)")
    parser.add_argument("--samples", type=int, default=2, metavar="N", help="recordings to listen to in the report (default: 2)")
    parser.add_argument("--lyra", default="", metavar="DIR", help="folder with the .tflite files of Lyra v2")
    parser.add_argument("--asr", default="", metavar="MODEL|DIR", help="Whisper for dwer and dcer: a size (base) or CTranslate2 folder")
    parser.add_argument("--ecapa", default="", metavar="DIR", help="folder with model.safetensors of SpeechBrain's ECAPA, for speaker")
    parser.add_argument("--embedding", default="", metavar="MODULE:FUNCTION", help="of the Fréchet distance (default: mel)")
    parser.add_argument("--compare", default="", metavar="FILE", help="report.json of an earlier sweep: tell what moved")


def run(args: argparse.Namespace) -> int | None:
    from codec.evaluation import metrics
    from codec.evaluation.sweep.run import BITRATES, sweep

    if args.metrics == ["list"]:
        summary(metrics.table())
        return None
    check_input(args.data)
    if not args.seconds > 0:
        raise ValueError(f"--seconds {args.seconds:g}: it must be above 0")
    names = [*(args.metrics or ([] if args.tasks else metrics.DEFAULT)), *metrics.of_tasks(args.tasks)]
    with Progress() as progress:
        result = sweep(
            args.data, args.models, args.out, BITRATES if args.bitrates is None else args.bitrates or None,
            names, args.jobs, args.layout, args.limit, args.rate, args.seconds, max(0, args.samples), args.lyra,
            metrics.Options(args.asr, args.ecapa, args.embedding), args.compare, progress.update,
        )
    if compared := result.report.get("compare"):
        moved = [row for row in compared["rows"] if row["verdict"] != "same"]
        for row in moved:
            summary(f"{row['model']} {row['setting']}: {row['metric']} is {row['verdict']}, {row['before']:.3f} to {row['now']:.3f} "
                    f"(p {row['p']:.2g})")
        summary(f"{count(len(moved), 'figure')} of {len(compared['rows'])} moved against {compared['report']}")
    for one in result.left_out:
        note(f"{one.name} is left out: {one.reason}")
    for line in result.notes:
        note(line)
    for one in result.report["failures"]:
        what = f"{one['what']} by {one['models']}" if one["what"] == "not coded" else f"no {one['metrics']}"
        note(f"{one['file']}: {what}: {one['reason']}")
    summary(_table(result.report))
    summary(f"{result.out}: {count(result.cells, 'cell')}, {result.measured} measured now; report.html, report.json, results.csv")
    return 0 if any(row["files"] for row in result.report["cells"]) else 1


def _table(report: dict) -> str:
    """Markdown: mean [low, high] of each metric, and of how many recordings where those are not all."""
    names = [name for name in report["metrics"] if any(name in row["metrics"] for row in report["cells"])]
    titles = [report["metrics"][name]["title"] for name in names]
    lines = ["| model | kbit/s | files | " + " | ".join(titles) + " |", "|---|---|---|" + "---|" * len(names)]
    for row in report["cells"]:
        cells = [_cell(row["metrics"].get(name), report["metrics"][name]["digits"], row["files"]) for name in names]
        lines.append(f"| {row['model']} {row['setting']} | {row['bitrate'] / 1000:.2f} | {row['files']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(one: dict | None, digits: int, files: int) -> str:
    """How many recordings a mean is of is said where it is not all that were coded."""
    if one is None:
        return ""
    interval = "" if one["low"] is None else f" [{one['low']:.{digits}f}, {one['high']:.{digits}f}]"
    return f"{one['mean']:.{digits}f}{interval}" + (f" n={one['n']}" if one["n"] != files else "")


def _names(text: str) -> list[str]:
    return [part for part in (each.strip() for each in text.split(",")) if part]


def _rates(text: str) -> list[float]:
    if text == "own":
        return []
    try:
        rates = [float(part) for part in text.split(",") if part]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < 10_000 for rate in rates):
        raise argparse.ArgumentTypeError(f"{text!r}: give kbit/s like 1,2,4, or `own`")
    return rates


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 up")
    return int(text)
