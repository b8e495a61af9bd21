"""Processes that share the tasks of a sweep. One that dies takes one cell with it, which the report names and the next run tries
again, and another takes its place."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from codec.evaluation.sweep.cells import Cell
from codec.evaluation.sweep.tasks import Probing
from codec.evaluation.sweep.worker import Plan, Task, Worker, serve


@dataclass
class _Running:
    process: multiprocessing.Process
    task: Task | Probing | None = None
    done: int = 0  # cells of the task


def measure(plan: Plan, tasks: Sequence[Task | Probing], jobs: int, measured: Callable[[Cell], None]) -> None:
    """Measure all cells, in `jobs` processes of one thread each; in this one where one is enough."""
    if jobs == 1:
        worker = Worker(plan)
        for task in tasks:
            for cell in worker.work(task):
                measured(cell)
        return
    context, left = multiprocessing.get_context("spawn"), deque(tasks)
    running: dict[Connection, _Running] = {}

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, plan), daemon=True)
        process.start()
        theirs.close()
        running[ours] = _Running(process)
        give(ours)

    def give(connection: Connection) -> None:
        one = running[connection]
        one.task, one.done = (left.popleft() if left else None), 0
        try:
            connection.send(one.task)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has died; `bury` comes next
        if one.task is None:
            running.pop(connection).process.join()
            connection.close()

    def bury(connection: Connection) -> None:
        """A process has died of a cell: the program or library that killed it says no more."""
        one = running.pop(connection)
        connection.close()
        one.process.join()
        cell = one.task.cells[one.done][2]
        cell.error = f"the process that measured it died ({_death(one.process.exitcode)})"
        measured(cell)
        if rest := one.task.cells[one.done + 1 :]:
            left.appendleft(Task(one.task.item, rest))
        if left:
            start()

    try:
        for _ in range(min(jobs, len(tasks))):
            start()
        while running:
            for connection in wait(list(running)):
                try:
                    cell = connection.recv()
                except (EOFError, ConnectionResetError):
                    bury(connection)
                    continue
                if cell is None:
                    give(connection)
                else:
                    running[connection].done += 1
                    measured(cell)
    finally:
        for one in running.values():
            one.process.terminate()
        for one in running.values():
            one.process.join()


def _death(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
