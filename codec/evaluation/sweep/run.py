"""A sweep from start to end: which cells there are, those that are missing measured, and the report written."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from codec.evaluation import metrics, systems
from codec.evaluation.datasets import Item, recordings
from codec.evaluation.metrics import Options
from codec.evaluation.metrics.tasks import AUDIO, HEARD
from codec.evaluation.metrics.tokens import PRIOR, Usage
from codec.evaluation.sweep import cells as journal
from codec.evaluation.sweep import folder, pool, report, tasks
from codec.evaluation.sweep.cells import Cell
from codec.evaluation.sweep.choose import Chosen, Left, choose, in_words, usable
from codec.evaluation.sweep.folder import SweepError
from codec.evaluation.sweep.labelled import Labelled
from codec.evaluation.sweep.worker import Plan, Task
from codec.evaluation.systems import ORIGINAL, Original

BITRATES = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0, 12.0)  # kbit/s
OF_CODES = {metric.name for metric in Usage.metrics}  # which need no more than the codes
Progress = Callable[[float, float, str], None]


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
    options = folder.remembered(out, options)
    left: list[Left] = []
    notes: list[str] = []
    wanted = [metric for metric in metrics.resolve(metric_names) if usable(metric, options, left)]
    chosen = choose(systems.build(models, lyra), bitrates, left, notes)
    asked = tasks.asked(wanted, items, left)
    wanted = [metric for metric in wanted if metric.level != "task" or metric.name in asked]
    if not wanted:
        raise SweepError(f"no metric can be measured: {left[0].name}: {left[0].reason}")
    if not chosen:
        raise SweepError(f"no system can be measured: {left[0].name}: {left[0].reason}" if left else
                         f"no system has a setting near {in_words(bitrates)} kbit/s: {'; '.join(notes)}")
    old = report.read(compare) if compare else None
    folder.ready(out, {"rate": rate, "seconds": None if seconds == math.inf else seconds}, options)
    if bare := [one.system.name for one in chosen if one.facts.get(PRIOR) == "" and any(metric.option == PRIOR for metric in wanted)]:
        notes.append(f"nothing is saved by entropy coding, for want of a prior: {', '.join(bare)}")
    heard = [item.name for item in _spread(items, samples)]
    names = [metric.name for metric in wanted if metric.name not in OF_CODES and metric.level != "task"]
    of_audio = any(name.endswith(AUDIO) for name in asked)
    wants = {one.system.name: [*names, HEARD] if of_audio else names for one in chosen}
    originals = [Chosen.of(Original())] if of_audio and ORIGINAL not in wants else []  # which the probes of audio are held against
    wants |= {one.system.name: [HEARD] for one in originals}
    every = chosen + originals
    sources = tuple(getattr(one.system, "source", one.system.name) for one in every)
    plan = Plan(str(out), sources, lyra, options, rate, seconds, tuple(heard))
    made = {
        one.system.name: {metric.name: metrics.made_with(metric, options, one.facts) for metric in wanted if metric.option} for one in every
    }
    table = _cells(items, every)
    known = journal.read(out)
    for cell in table:
        if cell.place in known and not known[cell.place].error:  # what failed is tried again: a disk was full, a file not to be read
            cell.add(known[cell.place])
            cell.forget(made[cell.system])
    todo = [cell for cell in table if cell.lacks(wants[cell.system]) or not cell.error and not cell.seconds]
    began, jobs = time.monotonic(), jobs or _cores()
    _measure(plan, items, every, table, todo, wants, made, jobs, progress)
    known = journal.read(out)  # also what a process noted before it died
    for cell in table:
        if cell.error and cell.place in known and not known[cell.place].error:
            cell.add(known[cell.place])
            cell.forget(made[cell.system])
    number, references = len(table), _ask(plan, asked, every, table, jobs, notes, progress)
    table = [cell for cell in table if cell.system not in {one.system.name for one in originals}]
    result = report.write(out, table, wanted, {
        "data": str(data), "files": len(items), "rate": rate, "seconds": None if seconds == math.inf else seconds,
        "bitrates": None if bitrates is None else list(bitrates), "took_seconds": round(time.monotonic() - began, 1),
        "measured_now": len(todo),
    }, [asdict(one) for one in left], notes, {one.system.name: one.facts for one in chosen if one.facts}, heard, references, old)
    return Result(out, result, number, len(todo), left, notes)


def _cells(items: Sequence[Item], chosen: Sequence[Chosen]) -> list[Cell]:
    """All cells, system by system."""
    stamps = {item.name: journal.stamp(item.path) for item in items}
    return [
        Cell(item.name, stamps[item.name], one.system.name, one.key, setting.name, setting.bitrate)
        for one in chosen for setting in one.settings for item in items
    ]


def _measure(
    plan: Plan, items: Sequence[Item], chosen: Sequence[Chosen], table: Sequence[Cell], todo: Sequence[Cell],
    wants: Mapping[str, list[str]], made: Mapping[str, Mapping[str, str]], jobs: int, progress: Progress | None,
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
        wanted = tuple(cell.lacks(wants[cell.system]))
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


def _ask(
    plan: Plan, asked: Mapping[str, Labelled], every: Sequence[Chosen], table: Sequence[Cell], jobs: int, notes: list[str],
    progress: Progress | None,
) -> list[tasks.Reference]:
    """Train the probes that have no answers yet, and bring all answers into the table."""
    by_setting: dict[tuple[str, str], list[Cell]] = {}
    for cell in table:
        by_setting.setdefault((cell.system, cell.setting), []).append(cell)
    probings = [
        tasks.probing(metric, labelled, by_setting[one.system.name, setting.name], number, setting)
        for metric, labelled in asked.items() for number, one in enumerate(every) for setting in one.settings
        if (one.facts or metric.endswith(AUDIO)) and not (one.system.name == ORIGINAL and not metric.endswith(AUDIO))
    ]
    todo = [one for one in probings if tasks.answers(one.path(plan.out)) is None]
    done = 0

    def measured(cell: Cell) -> None:
        nonlocal done
        done += 1
        if cell.error:
            notes.append(f"{cell.file.removeprefix(tasks.ALL)} of {cell.system} {cell.setting}: {cell.error}")
        if progress is not None:
            progress(done, len(todo), f"{done}/{len(todo)} probes: {cell.file.removeprefix(tasks.ALL)} of {cell.system} {cell.setting}")

    if todo:
        pool.measure(plan, todo, min(jobs, len(todo)), measured)
    return tasks.told(plan.out, probings, table)


def _spread(items: Sequence[Item], number: int) -> list[Item]:
    return [items[k * len(items) // number] for k in range(min(number, len(items)))] if number else []


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
