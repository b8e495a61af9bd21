"""`codec tokenize`: the shards of a corpus that are not done yet, on one machine or handed to many."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.atomic import WriteError
from codec.corpus import on_ray
from codec.corpus.formats import check_format
from codec.corpus.inputs import Input, list_inputs
from codec.corpus.plan import MANIFEST, QUARANTINE, SHARDS, CorpusError, Plan, Settings, agree, write_json
from codec.corpus.workers import Workers

if TYPE_CHECKING:
    from codec.model import Codec

Progress = Callable[["State"], None]


@dataclass
class State:
    """Of a run: recordings, their bytes, and seconds of audio coded by it; of all recordings and bytes that it has to do."""

    recordings: int = 0
    bytes: int = 0
    seconds: float = 0.0
    all_recordings: int = 0
    all_bytes: int = 0
    workers_lost: int = 0

    def add(self, done: tuple[int, int, float], sign: int = 1) -> None:
        """done: recordings, bytes and seconds. sign -1 takes back what a worker that was lost had done."""
        self.recordings += sign * done[0]
        self.bytes += sign * done[1]
        self.seconds += sign * done[2]


@dataclass(frozen=True)
class Report:
    """What is in the corpus after a run. seconds of audio, of all shards; elapsed and coded_seconds: of this run alone."""

    shards: int
    shards_before: int
    recordings: int
    rows: int
    frames: int
    seconds: float
    quarantined: int
    coded_seconds: float
    elapsed: float
    workers_lost: int


def tokenize(
    model: str | os.PathLike[str] | Codec,
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    format: str = "npy",
    num_codebooks: int | None = None,
    bitrate: float | None = None,
    beam: int | None = None,
    mono: bool = False,
    split: str | None = None,
    jobs: int | None = None,
    device: str = "cpu",
    shard_bytes: int | None = None,
    retry: bool = False,
    progress: Progress | None = None,
    engine: str = "local",
    address: str | None = None,
) -> Report:
    """Code the recordings of `source` (see `codec.corpus.inputs.list_inputs`) into shards in a folder.

    What is in a shard follows from the list of recordings alone. A shard that is done stays as it is, so a run that was stopped
    in any way is gone on with by the same call. Recordings that cannot be read are left out and named, with reasons, in
    `quarantine.jsonl`; `manifest.json` lists the shards once all are done.

    Args:
        model: what `codec.load` takes. A Codec only with jobs=0.
        format: npy (memory-mapped by `TokenDataset`), parquet or webdataset.
        num_codebooks, bitrate, beam: as in `Codec.encode`.
        mono: average the channels of a recording; without it each is a row of its own.
        split: keep only these entries of a manifest or dataset.
        jobs: processes, of one thread each; as many as there are cores (GPUs) by default. 0: in this process.
        device: cpu, cuda (all GPUs in turn), or cuda:1 and so on.
        shard_bytes: recordings in a shard, counted in bytes of their files; by default 1/256 of all, 1 to 64 MiB.
        retry: do the shards again that recordings were left out of.
        progress: is told how far it is.
        engine: local, or ray: Ray Data hands the shards to the machines of a cluster, which must share the disk.
        address: of the cluster, as `ray.init` takes it; by default that of RAY_ADDRESS, else a Ray of this machine alone.

    Raises CorpusError for a folder that holds another corpus, DataError for a source that names nothing, WriteError when the disk
    is full, ValueError for wrong settings.
    """
    began = time.monotonic()
    check_format(format)
    if engine not in ("local", "ray") or (engine == "local" and address is not None):
        raise CorpusError(f"engine={engine} with address={address}: there is local, without an address, and ray")
    if jobs != 0 and not isinstance(model, (str, os.PathLike)):
        raise CorpusError("processes load the model for themselves: give its name or folder, or jobs=0 to work in this one")
    if (jobs is not None and jobs < 0) or (shard_bytes is not None and shard_bytes < 1):
        raise CorpusError(f"jobs={jobs} and shard_bytes={shard_bytes} must not be negative, nor a shard empty")
    if engine == "ray":
        if jobs == 0:
            raise CorpusError("jobs=0 is this process: leave it out for one actor on each core of the cluster")
        source, folder = os.path.abspath(source), os.path.abspath(folder)  # the same elsewhere
        model = os.path.abspath(model) if os.path.isdir(model) else model
    inputs, folder = list_inputs(source, split), Path(folder)
    if folder.resolve() == Path(source).resolve():
        raise CorpusError(f"{folder} is where the recordings are: name another folder")
    loaded = _loaded(model, device if jobs == 0 else "cpu")
    settings = Settings(format, loaded.codebooks_for(num_codebooks, bitrate), beam, mono, shard_bytes)
    loaded.quantizer.check_beam(beam)
    spec, state = loaded.spec, State()
    if jobs != 0:
        del loaded  # workers have their own
    with _alone(folder):
        plan = agree(folder, inputs, spec, settings)
        todo = _todo(plan, folder, retry)
        state.all_recordings = sum(len(plan.shard(number)) for number in todo)
        state.all_bytes = sum(inputs[index].size for number in todo for index in plan.shard(number))

        def tell() -> None:
            if progress is not None:
                progress(state)

        if engine == "ray" and todo:
            on_ray.run(str(model), plan, folder, inputs, todo, state, tell, jobs, device, address)
        elif jobs == 0:
            _run_here(loaded, plan, folder, inputs, todo, state, tell)
        elif todo:
            devices = _devices(device)
            most = jobs or (len(devices) if device != "cpu" else _cores())
            with Workers(str(model), devices, plan, folder, inputs, state, tell) as workers:
                workers.run(todo, min(most, len(todo)))
        return _close(plan, folder, len(todo), state, time.monotonic() - began)


def _loaded(model: str | os.PathLike[str] | Codec, device: str) -> Codec:
    from codec import hub
    from codec.model import Codec

    return model if isinstance(model, Codec) else hub.load(model, device)


def _todo(plan: Plan, folder: Path, retry: bool) -> list[int]:
    """The shards that are not done."""
    from codec.corpus.shard import read_record, record_path

    _sweep(folder)
    todo = []
    for number in range(len(plan.stops)):
        record = read_record(folder, number)
        if record is not None and retry and record["quarantined"]:
            record_path(folder, number).unlink()
            record = None
        if record is None:
            todo.append(number)
    if todo:
        (folder / MANIFEST).unlink(missing_ok=True)
    return todo


def _run_here(
    model: Codec, plan: Plan, folder: Path, inputs: list[Input], todo: list[int], state: State, tell: Callable[[], None]
) -> None:
    from codec.corpus.shard import write_shard

    def heard(kind: str, value: Any) -> None:
        if kind == "done":
            state.add(value)
            tell()

    for number in todo:
        write_shard(model, plan, folder, number, [inputs[index] for index in plan.shard(number)], heard)


def _close(plan: Plan, folder: Path, done_now: int, state: State, elapsed: float) -> Report:
    """The manifest and the list of what was left out, of all shards."""
    from codec.corpus.shard import read_record

    records = [read_record(folder, number) for number in range(len(plan.stops))]
    missing = [number for number, record in enumerate(records) if record is None]
    if missing:
        raise CorpusError(f"{folder}: shard {missing[0]} has gone while others were made; run it again")
    refused = [item for record in records for item in record["quarantined"]]
    write_json(folder / QUARANTINE, *refused)
    totals = {key: sum(record[key] for record in records) for key in ("inputs", "rows", "frames", "seconds")}
    totals["seconds"] = round(totals["seconds"], 6)
    shards = [{key: value for key, value in record.items() if key != "quarantined"} for record in records]
    write_json(folder / MANIFEST, {**totals, "quarantined": len(refused), "shards": shards})
    return Report(
        shards=len(records), shards_before=len(records) - done_now, recordings=totals["inputs"] - len(refused),
        rows=totals["rows"], frames=totals["frames"], seconds=totals["seconds"], quarantined=len(refused),
        coded_seconds=state.seconds, elapsed=elapsed, workers_lost=state.workers_lost,
    )


def _sweep(folder: Path) -> None:
    """Away with what processes that were killed have left half-written."""
    for stale in (folder / SHARDS).glob(".*.part"):
        stale.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two runs in one folder would do everything twice. A killed one holds nothing."""
    try:
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "wb")
    except OSError as error:
        raise WriteError(str(folder), error) from error
    with file:
        try:
            import fcntl
        except ImportError:  # not on Windows
            fcntl = None
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CorpusError(f"another codec tokenize is at work in {folder}: wait for it, or stop it") from None
            except OSError:
                pass  # a network disk without locks
        try:
            yield
        finally:
            _sweep(folder)


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _devices(device: str) -> list[str]:
    if device != "cuda":
        return [device]
    import torch

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
