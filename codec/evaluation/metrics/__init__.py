"""Metrics by name. Each says its unit, which way is better, where it is defined, its licence, and what installs it.

    from codec.evaluation import metrics
    for metric in metrics.METRICS.values(): print(metric.name, metric.unit, metric.missing())
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from codec.evaluation.metrics.base import HIGHER, LOWER, Coded, Judge, Metric, MetricError, Options, Unjudged  # noqa: F401
from codec.evaluation.metrics.frechet import Frechet
from codec.evaluation.metrics.opinion import DistillMos, DnsMos, PlcMos, Visqol
from codec.evaluation.metrics.people import Speaker, Words
from codec.evaluation.metrics.pitch import Pitch
from codec.evaluation.metrics.signal import SiSdr, Spectra
from codec.evaluation.metrics.speech import Estoi, NarrowPesq, Stoi, WidePesq
from codec.evaluation.metrics.tasks import HEARD, TASKS, Heard, Told  # noqa: F401
from codec.evaluation.metrics.tokens import PRIOR, EntropyCoding, Repetition, Robustness, Usage

JUDGES: tuple[type[Judge], ...] = (
    WidePesq, NarrowPesq, Stoi, Estoi, SiSdr, Spectra, Pitch, Visqol, DistillMos, DnsMos, PlcMos, Speaker, Words, Frechet, Repetition, Robustness,
    EntropyCoding, Usage, Told, Heard,
)
METRICS: dict[str, Metric] = {metric.name: metric for judge in JUDGES for metric in judge.metrics if metric.level != "kept"}
ALL = tuple(metric.name for metric in METRICS.values() if metric.level != "task")  # tasks need labels
DEFAULT = ("pesq-wb", "stoi", "estoi", "si-sdr", "mel", "coded", "saved")
SHORT = {
    "pesq": ("pesq-wb",), "f0": ("f0-error", "voicing-error"), "robustness": ("robust-noise", "robust-shift", "robust-gain"),
}


def resolve(names: Iterable[str]) -> list[Metric]:
    """Metrics by their names, or those that a short name stands for (`pesq`, `all`), each once. Raises MetricError."""
    found: dict[str, Metric] = {}
    for name in names:
        chosen = ALL if name == "all" else SHORT.get(name, (name,))
        for each in chosen:
            if each not in METRICS:
                raise MetricError(f"there is no metric {name!r}: there are {', '.join(METRICS)}, or all")
            found[each] = METRICS[each]
    if not found:
        raise MetricError(f"no metric is named: there are {', '.join(METRICS)}, or all")
    return list(found.values())


def of_tasks(tasks: Iterable[str]) -> list[str]:
    """Names of the metrics of tasks: what a machine makes of the audio, and of the tokens. Raises MetricError."""
    tasks = list(tasks)
    if unknown := [task for task in tasks if task not in TASKS]:
        raise MetricError(f"there is no task {unknown[0]!r}: there are {', '.join(TASKS)}")
    return list(dict.fromkeys(name for task in tasks for name in TASKS[task]))


def judges(wanted: Iterable[str], options: Options) -> list[Judge]:
    """What computes these metrics, each built once. Raises MetricError where files are missing."""
    wanted = set(wanted)
    return [judge(options) for judge in JUDGES if wanted & {metric.name for metric in judge.metrics}]


def check(name: str, options: Options) -> None:
    """Raises MetricError where a metric lacks something that `options` must name. Nothing is loaded."""
    for judge in JUDGES:
        if hasattr(judge, "check") and name in {metric.name for metric in judge.metrics}:
            judge.check(options)


def made_with(metric: Metric, options: Options, facts: Mapping[str, Any]) -> str:
    """What values of a metric are made with, besides the recording and the codec: weights, an embedding, the prior of a model (of which
    `facts` tells). Values made with something else are other values."""
    if metric.option == PRIOR:
        return facts.get(PRIOR, "")
    said = getattr(options, metric.option) if metric.option else ""
    return str(Path(said).resolve()) if said and Path(said).is_dir() else said


def table() -> str:
    """All metrics as Markdown."""
    lines = ["| metric | | unit | better | source | licence | needs |", "|---|---|---|---|---|---|---|"]
    for metric in METRICS.values():
        needs = f"{metric.install} (missing)" if metric.missing() else metric.install
        lines.append(f"| {metric.name} | {metric.title} | {metric.unit} | {metric.better} | {metric.source} | {metric.licence} | {needs} |")
    return "\n".join(lines)
