"""Two real processes under torch.distributed (gloo), for tests of what must agree on every rank."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

import torch
from torch import distributed, multiprocessing

PROCESSES = 2


def run_two(fn: Callable[..., Any], *args: Any, timeout: float = 60.0) -> list[Any]:
    """[fn(0, *args), fn(1, *args)] of two processes that form one group.

    fn is a function of a module's top level; what it takes and returns can be pickled.
    Raises TimeoutError where they do not end within `timeout` seconds (a rank that waits for the other hangs), and
    whatever error a process ends with.
    """
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.spawn(_process, (fn, folder, args), nprocs=PROCESSES, join=False)
        end = time.monotonic() + timeout
        while not context.join(timeout=max(0.0, end - time.monotonic())):
            if time.monotonic() >= end:
                for process in context.processes:
                    process.kill()
                raise TimeoutError(f"{fn.__name__} did not end within {timeout:g} s: a process waits for the other")
        return [torch.load(Path(folder, f"result-{rank}"), weights_only=True) for rank in range(PROCESSES)]


def _process(rank: int, fn: Callable[..., Any], folder: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    meeting = Path(folder, "meeting").as_uri()
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=PROCESSES)
    result = fn(rank, *args)
    torch.save(result, Path(folder, f"result-{rank}"))
    distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)  # gloo's threads may outlive their group; where Python ends among them it now and then aborts
