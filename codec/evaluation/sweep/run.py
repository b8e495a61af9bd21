"""A sweep from start to end: which cells there are, those that are missing measured, and the report written."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from codec.atomic import WriteError, put
from codec.evaluation import metrics, systems
from codec.evaluation.datasets import Item, recordings
from codec.evaluation.metrics import Metric, MetricError, Options
from codec.evaluation.metrics.tokens import PRIOR, Usage
from codec.evaluation.sweep import cells as journal
from codec.evaluation.sweep import keep, pool, report
from codec.evaluation.sweep.cells import Cell
from codec.evaluation.sweep.worker import Plan, Task
from codec.evaluation.systems import Setting, System

SETTINGS = "settings.json"
VERSION = 2
BITRATES = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0, 12.0)  # kbit/s
OF_CODES = {metric.name for metric in Usage.metrics}  # which need no more than the codes
Progress = Callable[[float, float, str], None]


class SweepError(ValueError):
    """A sweep that cannot be made; one line that says why and how to mend it."""


@dataclass
class Left:
    """A system or metric that is left out, and why."""

    name: str
    reason: str


@dataclass
class _Chosen:
    """A system with the settings that are measured. facts: of its codes, empty where it has none."""

    system: System
    key: str
    settings: list[Setting]
    facts: dict[str, Any]


@dataclass
class Result:
    """What a sweep gives. report: as in report.json; measured: cells that were measured now, of `cells`; left_out: systems and
    metrics; notes: for the user, a line each."""

    out: Path
    report: dict[str, Any]
    cells: int
    measured: int
    left_out: list[Left] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def sweep(
    data: str | os.PathLike[str],
    models: Sequence[str],
    out: str | os.PathLike[str],
    bitrates: Sequence[float] | None = BITRATES,
    metric_names: Sequence[str] = metrics.DEFAULT,
    jobs: int | None = None,
    layout: str = "",
    limit: int | None = None,
    rate: int | None = None,
    seconds: float = math.inf,
    samples: int = 2,
    lyra: str = "",
    options: Options = Options(),
    compare: str | os.PathLike[str] = "",
    progress: Progress | None = None,
) -> Result:
    """Measure systems at bitrates over recordings, and write results.csv, results.parquet, report.json and report.html.

    data, layout, limit   as for `datasets.recordings`.
    models      as for `systems.build`.
    out         folder of the results. What is in it already is not measured again.
    bitrates    kbit/s: each system is measured at its settings nearest to them; None for its own usual ones.
    metric_names  as for `metrics.resolve`.
    jobs        processes of one thread each; as many as there are cores by default.
    rate        to which recordings are brought first, in Hz; their own by default. Channels are averaged.
    seconds     of each recording, from its start.
    samples     recordings that the page plays.
    compare     report.json of an earlier sweep.
    progress    called with what is done, what there is, and words.

    Raises ValueError (SweepError, MetricError, SystemsError, DatasetError) where there is nothing to measure.
    """
    items, out = recordings(data, layout, limit), Path(out)
    options = _remembered(out, options)
    left: list[Left] = []
    notes: list[str] = []
    wanted = [metric for metric in metrics.resolve(metric_names) if _usable(metric, options, left)]
    chosen = _choose(systems.build(models, lyra), bitrates, left, notes)
    if not wanted:
        raise SweepError(f"no metric can be measured: {left[0].name}: {left[0].reason}")
    if not chosen:
        raise SweepError(f"no system can be measured: {left[0].name}: {left[0].reason}" if left else
                         f"no system has a setting near {_list(bitrates)} kbit/s: {'; '.join(notes)}")
    old = report.read(compare) if compare else None
    _open(out, {"version": VERSION, "rate": rate, "seconds": None if seconds == math.inf else seconds}, options)
    if bare := [one.system.name for one in chosen if one.facts.get(PRIOR) == "" and any(metric.option == PRIOR for metric in wanted)]:
        notes.append(f"nothing is saved by entropy coding, for want of a prior: {', '.join(bare)}")
    heard = [item.name for item in _spread(items, samples)]
    plan = Plan(str(out), tuple(one.system.source if hasattr(one.system, "source") else one.system.name for one in chosen), lyra,
                options, rate, seconds, tuple(heard))
    names = [metric.name for metric in wanted if metric.name not in OF_CODES]
    made = {one.system.name: {metric.name: metrics.made_with(metric, options, one.facts) for metric in wanted if metric.option} for one in chosen}
    table = _cells(items, chosen)
    known = journal.read(out)
    for cell in table:
        if cell.place in known and not known[cell.place].error:  # what failed is tried again: a disk was full, a file not to be read
            cell.add(known[cell.place])
            cell.forget(made[cell.system])
    todo = [cell for cell in table if cell.lacks(names) or not cell.error and not cell.seconds]
    began = time.monotonic()
    _measure(plan, items, chosen, table, todo, names, made, jobs or _cores(), progress)
    known = journal.read(out)  # also what a process noted before it died
    for cell in table:
        if cell.error and cell.place in known and not known[cell.place].error:
            cell.add(known[cell.place])
            cell.forget(made[cell.system])
    result = report.write(out, table, wanted, {
        "data": str(data), "files": len(items), "rate": rate, "seconds": None if seconds == math.inf else seconds,
        "bitrates": None if bitrates is None else list(bitrates), "took_seconds": round(time.monotonic() - began, 1),
        "measured_now": len(todo),
    }, [asdict(one) for one in left], notes, {one.system.name: one.facts for one in chosen if one.facts}, heard, old)
    return Result(out, result, len(table), len(todo), left, notes)


def _usable(metric: Metric, options: Options, left: list[Left]) -> bool:
    remedy = metric.missing()
    if not remedy:
        try:
            metrics.check(metric.name, options)
        except MetricError as error:
            remedy = str(error)
    if remedy:
        left.append(Left(metric.name, remedy))
    return not remedy


def _choose(found: Sequence[System], bitrates: Sequence[float] | None, left: list[Left], notes: list[str]) -> list[_Chosen]:
    """The systems that are there, with their settings; the others are noted."""
    chosen = []
    wanted = None if bitrates is None else [1000 * rate for rate in bitrates]
    for system in found:
        try:
            if remedy := system.missing():
                left.append(Left(system.name, remedy))
                continue
            key, near = system.key, system.settings(wanted)
        except (ValueError, RuntimeError, OSError) as error:  # no such model, a program that does not start
            left.append(Left(system.name, " ".join(str(error).split())))
            continue
        if near:
            chosen.append(_Chosen(system, key, near, getattr(system, "facts", {})))
        else:
            every = system.settings(None)
            notes.append(f"{system.name} has {every[0].bitrate / 1000:g} to {every[-1].bitrate / 1000:g} kbit/s, "
                         f"nothing near {_list(bitrates)}")
    return chosen


def _remembered(out: Path, options: Options) -> Options:
    """What is not said now is as it was said the last time."""
    there = _settings(out).get("options") or {}
    return Options(**{key: said or str(there.get(key, "")) for key, said in asdict(options).items()})


def _settings(out: Path) -> dict[str, Any]:
    """As the folder of results has them, {} without such a file, or with a torn one."""
    try:
        there = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return there if isinstance(there, dict) else {}


def _open(out: Path, settings: dict[str, Any], options: Options) -> None:
    """The folder of results, made if it is not there. Raises SweepError when it holds results of other settings."""
    try:
        for folder in (out, out / journal.CELLS, out / keep.CODES, out / keep.SAMPLES, out / keep.VECTORS):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(str(out), error) from error
    there, path = _settings(out), out / SETTINGS
    changed = [key for key in settings if there.get(key) != settings[key]] if path.is_file() else []
    if changed:
        raise SweepError(f"{out} holds results with another {' and '.join(changed)}: choose another --out")
    settings = settings | {"options": asdict(options)}
    if there != settings:
        put(path, (json.dumps(settings, indent=1) + "\n").encode())


def _cells(items: Sequence[Item], chosen: Sequence[_Chosen]) -> list[Cell]:
    """All cells, system by system."""
    stamps = {item.name: journal.stamp(item.path) for item in items}
    return [
        Cell(item.name, stamps[item.name], one.system.name, one.key, setting.name, setting.bitrate)
        for one in chosen for setting in one.settings for item in items
    ]


def _measure(
    plan: Plan, items: Sequence[Item], chosen: Sequence[_Chosen], table: Sequence[Cell], todo: Sequence[Cell], names: Sequence[str],
    made: Mapping[str, Mapping[str, str]], jobs: int, progress: Progress | None,
) -> None:
    """Fill in the cells that lack something. Each recording is a task; where those are few, each of its systems."""
    if not todo:
        return
    numbers = {one.system.name: number for number, one in enumerate(chosen)}
    settings = {(one.system.name, setting.name): setting for one in chosen for setting in one.settings}
    work: dict[tuple[str, int], list] = {}
    apart = len(items) < 2 * jobs
    for cell in todo:
        number = numbers[cell.system]
        blank = Cell(*(getattr(cell, name) for name in ("file", "stamp", "system", "key", "setting", "nominal")))
        wanted = tuple(cell.lacks(list(names)))
        blank.made = {name: with_ for name, with_ in made[cell.system].items() if name in wanted}
        work.setdefault((cell.file, number if apart else 0), []).append((number, settings[cell.system, cell.setting], blank, wanted))
    paths = {item.name: item for item in items}
    order = {item.name: number for number, item in enumerate(items)}
    tasks = [Task(paths[file], tuple(cells)) for (file, _), cells in sorted(work.items(), key=lambda one: (order[one[0][0]], one[0][1]))]
    by_place = {cell.place: cell for cell in table}
    done, began = len(table) - len(todo), time.monotonic()

    def measured(cell: Cell) -> None:
        nonlocal done
        by_place[cell.place].add(cell)
        done += 1
        if progress is not None:
            fresh = done - (len(table) - len(todo))
            left = (time.monotonic() - began) / fresh * (len(todo) - fresh)
            progress(done, len(table), f"{done}/{len(table)} cells, {_duration(left)} left: {cell.system} {cell.setting}, {cell.file}")

    pool.measure(plan, tasks, min(jobs, len(tasks)), measured)


def _spread(items: Sequence[Item], number: int) -> list[Item]:
    return [items[k * len(items) // number] for k in range(min(number, len(items)))] if number else []


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _list(rates: Sequence[float] | None) -> str:
    return ", ".join(f"{rate:g}" for rate in rates or ())
