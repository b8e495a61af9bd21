"""What one process of a sweep does: code recordings with systems, judge what comes out, and note each cell at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from codec.evaluation import metrics, systems
from codec.evaluation.datasets import Item, readable
from codec.evaluation.metrics import Coded, Options, Unjudged
from codec.evaluation.sound import AudioError, Sound, lag, load
from codec.evaluation.sweep import keep
from codec.evaluation.sweep.cells import Cell, Journal
from codec.evaluation.sweep.tasks import Probing, probe
from codec.evaluation.systems import Setting, System


@dataclass(frozen=True)
class Plan:
    """What all processes of a sweep know, in plain values. systems: names for `systems.build`, all of one kind each."""

    out: str
    systems: tuple[str, ...]
    lyra: str
    options: Options
    rate: int | None
    seconds: float
    samples: tuple[str, ...]  # names of the recordings that the page lets one hear


@dataclass(frozen=True)
class Task:
    """One recording and what is to be done with it: (number of the system, setting, empty cell, metrics that it lacks)."""

    item: Item
    cells: tuple[tuple[int, Setting, Cell, tuple[str, ...]], ...]


class Worker:
    def __init__(self, plan: Plan):
        import torch

        torch.set_num_threads(1)
        self.plan, self.journal = plan, Journal(plan.out)
        self.systems: list[System] = systems.build(plan.systems, plan.lyra)
        self._judges: dict[str, metrics.Judge] = {}
        self._broken: dict[str, str] = {}
        self._last: tuple[str, Sound] | None = None

    def work(self, task: Task | Probing) -> Iterator[Cell]:
        """Measure the cells of a task, one by one; each is in the journal when it is given. Of probes the answers are on disk."""
        if isinstance(task, Probing):
            yield self._probe(task)
            return
        try:
            sound = self._sound(task.item)
        except (AudioError, ValueError, RuntimeError, OSError) as error:
            for _, _, cell, _ in task.cells:
                cell.error = _line(error)
                self.journal.write(cell)
                yield cell
            return
        for number, setting, cell, wanted in task.cells:
            self.measure(sound, self.systems[number], setting, cell, wanted)
            self.journal.write(cell)
            yield cell

    def _probe(self, task: Probing) -> Cell:
        cell = task.cells[0][2]
        try:
            probe(task, self.plan.out, self.systems[task.number])
        except Exception as error:  # of libraries of others: the sweep goes on
            cell.error = _line(error)
        return cell

    def measure(self, sound: Sound, system: System, setting: Setting, cell: Cell, wanted: tuple[str, ...]) -> None:
        cell.seconds = sound.seconds
        try:
            coded = system.code(sound, setting)
            if not np.isfinite(coded.sound.wav).all():
                raise ValueError("what it decodes holds NaN or infinite samples")
        except Exception as error:  # of programs and libraries of others: the sweep goes on
            cell.error = f"{system.name} cannot code it: {_line(error)}"
            return
        cell.bits, cell.encoding, cell.decoding = float(coded.bits), coded.encoding, coded.decoding
        cell.lag = lag(sound.wav, coded.sound.wav, sound.rate)
        self._judge(sound, coded, cell, wanted)
        if coded.codes is not None:
            keep.codes(self.plan.out, cell, coded)
        if cell.file in self.plan.samples:
            keep.sample(self.plan.out, cell, sound, coded.sound)

    def _judge(self, sound: Sound, coded: Coded, cell: Cell, wanted: tuple[str, ...]) -> None:
        done: set[type] = set()
        for name in wanted:
            try:
                judge = self._judge_of(name)
            except RuntimeError as error:
                cell.reasons[name] = str(error)
                cell.faults.append(name)
                continue
            if type(judge) in done:
                continue
            done.add(type(judge))
            mine = [metric.name for metric in judge.metrics if metric.name in wanted]
            try:
                if hasattr(judge, "vectors"):
                    keep.vectors(self.plan.out, cell, name, judge.vectors(sound, coded))
                    cell.kept.append(name)
                    continue
                found = judge(sound, coded)
            except Unjudged as why:
                cell.reasons |= dict.fromkeys(mine, str(why))
                continue
            except Exception as error:  # likewise
                cell.reasons |= dict.fromkeys(mine, _line(error))
                cell.faults += mine
                continue
            for each in mine:
                value, weight = found[each] if isinstance(found[each], tuple) else (found[each], 1.0)
                if np.isfinite(value):
                    cell.values[each] = [float(value), float(weight)]
                else:
                    cell.reasons[each] = f"it came out as {value}"

    def _judge_of(self, name: str) -> metrics.Judge:
        """Raises RuntimeError, the same one every time, where it cannot be built: a library is broken, weights cannot be fetched."""
        if name not in self._judges and name not in self._broken:
            try:
                for judge in metrics.judges([name], self.plan.options):
                    self._judges |= {metric.name: judge for metric in judge.metrics}
            except Exception as error:  # likewise
                self._broken[name] = f"it cannot be measured: {_line(error)}"
        if name in self._broken:
            raise RuntimeError(self._broken[name])
        return self._judges[name]

    def _sound(self, item: Item) -> Sound:
        if self._last is None or self._last[0] != item.path:
            self._last = item.path, load(item.path, self.plan.rate, self.plan.seconds)
        return self._last[1]


def _line(error: BaseException) -> str:
    return readable(" ".join(str(error).split())) or type(error).__name__


def serve(connection: Connection, plan: Plan) -> None:
    """The life of a process: tasks come in, each measured cell goes out, None after the last of a task."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    try:
        worker = Worker(plan)
        while (task := connection.recv()) is not None:
            for cell in worker.work(task):
                connection.send(cell)
            connection.send(None)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone; what is done is on disk
