"""Processes that code shards, one each at a time. One that is lost is replaced and its shard is done again.

Nothing is shared but the disk. Each has a thread here that reads its events from a pipe, whose end tells that it is gone.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.corpus.inputs import Input
from codec.corpus.plan import CorpusError, Plan

if TYPE_CHECKING:
    from codec.corpus.run import State

_NAMES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")
CRASHES = {getattr(signal, name) for name in _NAMES if hasattr(signal, name)}
MOST_CRASHES = 2  # while one recording is read: then it is left out
MOST_LOST = 20  # times in a row that one shard is begun


class _Worker:
    """A process, and what it is at: the shard, the recording that it reads, what it has done of the shard."""

    def __init__(self, events: queue.Queue[tuple[_Worker, str, Any]], setup: tuple[Any, ...]):
        self.shard: int | None = None
        self.reading: int | None = None
        self.done = (0, 0, 0.0)
        self.ready = False
        self._errors = tempfile.TemporaryFile()
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "codec.corpus.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
        threading.Thread(target=self._listen, args=(events,), daemon=True).start()
        self.send(setup)

    def send(self, value: tuple[Any, ...]) -> None:
        try:
            pickle.dump(value, self.process.stdin)
            self.process.stdin.flush()
        except OSError:
            pass  # it is gone, which its events tell

    def _listen(self, events: queue.Queue[tuple[_Worker, str, Any]]) -> None:
        while True:
            try:
                events.put((self, *pickle.load(self.process.stdout)))
            except Exception:  # the end, or half an event: it was killed
                events.put((self, "gone", None))
                return

    def end(self) -> int:
        """Its exit code; what it may still do is not waited for."""
        self.process.kill()
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except OSError:
                pass
        return code

    def last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip()[-2000:]


class Workers:
    """`run` does shards; the processes end with the block, and wait for the next `run` until then."""

    def __init__(
        self, model: str, devices: list[str], plan: Plan, folder: Path, inputs: Mapping[int, Input] | list[Input], state: State,
        tell: Callable[[], None],
    ):
        self._model, self._devices, self._plan, self._folder = model, devices, plan, folder
        self._inputs, self._state, self._tell = inputs, state, tell
        self._events: queue.Queue[tuple[_Worker, str, Any]] = queue.Queue()
        self._workers: list[_Worker] = []
        self._started = 0
        self._todo: deque[int] = deque()
        self._lost: Counter[int | None] = Counter()  # how often the worker of a shard was lost; None: before it had one
        self._crashes: Counter[tuple[int, int]] = Counter()  # while a recording was read, by shard and number in it

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.end()

    def run(self, shards: list[int], jobs: int) -> None:
        """Raises CorpusError where workers are lost again and again, or one fails and no recording is to blame."""
        self._todo, left = deque(shards), len(shards)
        for worker in self._workers:
            if worker.ready:  # the others are given one when they are
                self._give(worker)
        for _ in range(jobs - len(self._workers)):
            self._start()
        while left:
            worker, kind, value = self._events.get()
            if worker not in self._workers:
                continue
            if kind == "reading":
                worker.reading = value
            elif kind == "coding":
                worker.reading = None
            elif kind == "done":
                worker.done = tuple(a + b for a, b in zip(worker.done, value))
                self._state.add(value)
                self._tell()
            elif kind in ("ready", "finished"):
                worker.ready = True
                if kind == "finished":
                    left -= 1
                    self._lost.pop(worker.shard, None)
                self._lost.pop(None, None)
                self._give(worker)
            elif kind == "failed":
                raise CorpusError(value)
            elif kind == "broken":
                raise RuntimeError(f"a worker of codec tokenize failed:\n{value}")
            else:
                self._replace(worker)

    def _start(self) -> None:
        device = self._devices[self._started % len(self._devices)]
        self._started += 1
        self._workers.append(_Worker(self._events, (self._model, device, self._plan, self._folder)))

    def _give(self, worker: _Worker) -> None:
        worker.reading, worker.done = None, (0, 0, 0.0)
        worker.shard = self._todo.popleft() if self._todo else None
        if worker.shard is not None:
            crashed = {
                index: f"reading it crashed the process {count} times" for (shard, index), count in self._crashes.items()
                if shard == worker.shard and count >= MOST_CRASHES
            }
            worker.send((worker.shard, [self._inputs[index] for index in self._plan.shard(worker.shard)], crashed))

    def _replace(self, worker: _Worker) -> None:
        code = worker.end()
        self._workers.remove(worker)
        self._state.workers_lost += 1
        self._state.add(worker.done, -1)
        self._tell()
        crash = -code in CRASHES and worker.reading is not None
        if crash:
            self._crashes[worker.shard, worker.reading] += 1
        else:
            self._lost[worker.shard] += 1
        if self._lost[worker.shard] >= MOST_LOST:
            where = "before it began" if worker.shard is None else f"in shard {worker.shard}"
            words = worker.last_words().splitlines()
            raise CorpusError(f"{MOST_LOST} workers were lost {where}, the last with exit code {code}: if memory is short, use "
                              f"fewer jobs{f' ({words[-1]})' if words else ''}")
        if worker.shard is not None:
            self._todo.appendleft(worker.shard)
        if self._todo:
            self._start()
