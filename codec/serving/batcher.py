"""Many live streams at once: an asyncio face for each, and one thread that runs those that are ready as batches."""

from __future__ import annotations

import asyncio
import itertools
import logging
from concurrent.futures import Executor, ThreadPoolExecutor

from codec.model import Codec
from codec.serving.engine import DIRECTIONS, Engine
from codec.serving.live_stream import LiveStream


class Full(RuntimeError):
    """There are as many streams as may be."""


class Batcher:
    """Streams of one model, batched.

    Used as `async with Batcher(model) as batcher:`, in one event loop. The model runs in a single thread of its own, so that
    the loop stays responsive.

    Args:
        max_streams: open at the same time.
        max_wait: seconds for which a stream that is ready waits for others to run with.
        patience: seconds; a stream whose output has waited that long, while less than that was taken, is closed.
        executor: a single thread to run in, to share it among models; one of its own by default.

    Raises ValueError for a model that cannot run live.
    """

    def __init__(
        self, model: Codec, max_streams: int = 64, max_wait: float = 0.01, patience: float = 5.0,
        executor: Executor | None = None,
    ):
        self.model, self.max_streams, self.max_wait, self.patience = model, max_streams, max_wait, patience
        self._engine = Engine(model)
        self._own = None if executor is not None else ThreadPoolExecutor(1, "codec")
        self._executor = executor if executor is not None else self._own
        self._numbers = itertools.count()
        self._streams: dict[int, LiveStream] = {}
        self._ready: dict[int, float] = {}  # streams with something to do: since when
        self._wake = asyncio.Event()
        self._task: asyncio.Task | None = None

    async def __aenter__(self) -> Batcher:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        for stream in list(self._streams.values()):
            stream.close()
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._own is not None:
            self._own.shutdown()

    def __len__(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def open(self, direction: str = "encode", num_codebooks: int | None = None) -> LiveStream:
        """A new stream: "encode" takes samples and gives codes, "decode" takes codes and gives samples, "both" takes
        samples and gives codes and what they sound like. Close it, or use it in a `with`.

        Raises ValueError for another direction or number of codebooks, Full when there are `max_streams`.
        """
        if direction not in DIRECTIONS:
            raise ValueError(f"direction {direction!r}: there is {', '.join(DIRECTIONS)}")
        codebooks = self.model.codebooks_for(num_codebooks)
        if len(self._streams) >= self.max_streams:
            raise Full(f"all {self.max_streams} streams are in use: try again later")
        stream = LiveStream(self, next(self._numbers), direction, codebooks)
        self._streams[stream.number] = stream
        return stream

    def _forget(self, stream: LiveStream) -> None:
        if self._streams.pop(stream.number, None) is not None:
            self._ready.pop(stream.number, None)
            self._executor.submit(self._engine.remove, [stream.number])  # behind a step that may be running

    def _consider(self, stream: LiveStream) -> None:
        """A stream may have something to do now."""
        if stream.number not in self._ready and stream.ready:
            self._ready[stream.number] = asyncio.get_running_loop().time()
            self._wake.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            while self._ready and len(self._ready) < len(self._streams):
                left = next(iter(self._ready.values())) + self.max_wait - loop.time()
                if left <= 0:
                    break
                self._wake.clear()
                try:
                    await asyncio.wait_for(self._wake.wait(), left)
                except asyncio.TimeoutError:
                    break
            self._wake.clear()
            streams = [self._streams[number] for number in self._ready]
            self._ready.clear()
            if not streams:
                continue
            jobs = [stream.job() for stream in streams]
            try:
                outputs = await loop.run_in_executor(self._executor, self._engine.step, jobs)
            except Exception as error:
                logging.getLogger(__name__).exception("a step of %d streams failed", len(streams))
                for stream in streams:
                    stream.fail(RuntimeError(f"a step of the model failed ({type(error).__name__}: {error})"))
                continue
            for stream, job, output in zip(streams, jobs, outputs):
                stream.deliver(output, job.last)
                self._consider(stream)
