"""`codec tokenize --engine ray`: the shards of a corpus on the machines of a Ray cluster, handed out by Ray Data.

Ray starts an actor a job, gives each a shard at a time, and gives it to another when an actor or its machine is lost. An actor codes
it as one machine does, in a process of `codec.corpus.workers`. Nothing but numbers comes back: shards go to the disk that all
machines share, as they do from one machine.
"""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.corpus.inputs import Input
from codec.corpus.plan import CorpusError, Plan

if TYPE_CHECKING:
    from codec.corpus.run import State

PATIENCE = 60.0  # seconds until a network disk shows what another machine has written


def run(
    model: str, plan: Plan, folder: Path, inputs: list[Input], todo: list[int], state: State, tell: Callable[[], None],
    jobs: int | None, device: str, address: str | None,
) -> None:
    """Do shards. address: of a cluster as `ray.init` takes it; by default that of RAY_ADDRESS, else a Ray of this machine alone,
    which ends with the run. jobs: actors, by default one for each CPU (or GPU) of the cluster.

    Raises CorpusError where there is no Ray, the cluster fails, or its machines share no disk.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        _join(ray, address, jobs)
    try:
        kind = "CPU" if device == "cpu" else "GPU"
        most = jobs or int(ray.cluster_resources().get(kind, 0))
        if not most:
            raise CorpusError(f"the Ray cluster has no {kind}: choose another --device, or say --jobs for machines that join later")
        rows = [{"shard": n, "inputs": pickle.dumps([inputs[index] for index in plan.shard(n)])} for n in todo]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Coder, fn_constructor_args=(model, device, plan, folder), batch_size=1, num_cpus=1, num_gpus=int(kind == "GPU"),
            compute=ray.data.ActorPoolStrategy(size=min(most, len(todo)), max_tasks_in_flight_per_actor=2),  # one waits
        )
        for row in done.iter_rows():
            if row["error"]:
                raise CorpusError(row["error"])
            state.add((row["recordings"], row["bytes"], row["seconds"]))
            state.workers_lost += row["lost"]
            tell()
    except ray.exceptions.RayError as error:
        raise CorpusError(f"Ray failed: {' '.join(str(error).split())[-1000:]}") from error
    finally:
        if ours:
            ray.shutdown()
    _wait(folder, todo)


class _Coder:
    """An actor. It outlives its process, which a recording may crash; when it is lost itself, its process ends, too."""

    def __init__(self, model: str, device: str, plan: Plan, folder: Path):
        from codec.corpus.run import State
        from codec.corpus.workers import Workers

        self._plan, self._folder, self._state = plan, folder, State()
        self._inputs: dict[int, Input] = {}
        devices = [device if device == "cpu" else "cuda:0"]  # Ray shows it one GPU
        self._workers = Workers(model, devices, plan, folder, self._inputs, self._state, lambda: None)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        from codec.corpus.shard import read_record

        number, inputs = int(batch["shard"][0]), pickle.loads(batch["inputs"][0])
        self._inputs.clear()
        self._inputs.update(zip(self._plan.shard(number), inputs))
        self._state.workers_lost, error = 0, ""
        record = read_record(self._folder, number)  # there when an actor was lost that had just finished
        if record is None:
            try:
                self._workers.run([number], 1)
                record = read_record(self._folder, number)
            except (CorpusError, RuntimeError) as failure:
                error = str(failure)
        return {
            "recordings": [len(inputs)], "bytes": [sum(item.size for item in inputs)],
            "seconds": [record["seconds"] if record else 0.0], "lost": [self._state.workers_lost], "error": [error],
        }


def _join(ray: Any, address: str | None, jobs: int | None) -> None:
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own = {"num_cpus": jobs, "include_dashboard": False} if address == "local" else {}
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong is told below
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **own)
    except Exception as error:  # of any kind: Ray raises plain ones where its processes take too long to start
        reason = " ".join(str(error).split())[:300]
        raise CorpusError(f"Ray does not start or answer at {address} ({reason}): see `ray status`; RAY_AUTH_MODE must "
                          "be the same on both sides") from None


def _wait(folder: Path, todo: list[int]) -> None:
    """Until this machine, too, sees what others have written."""
    from codec.corpus.shard import read_record

    until = time.monotonic() + PATIENCE
    for number in todo:
        while read_record(folder, number) is None:
            if time.monotonic() > until:
                raise CorpusError(f"shard {number} was made, but is not in {folder} here: name a folder on a disk that all machines "
                                  "share, by one path")
            time.sleep(0.5)


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise CorpusError('engine ray needs Ray: pip install "neural-codec-toolkit[ray]"') from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray
