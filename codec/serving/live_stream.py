"""One live stream of many: what waits to go in and to come out, with bounds to both."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from codec.serving.engine import Job, Output
from codec.stream import as_samples

if TYPE_CHECKING:
    from codec.serving.batcher import Batcher

STEP_FRAMES = 8  # most frames of a stream in one step: whoever sends a recording at once must not hold up the others
AHEAD = 1.0  # seconds of input, and of output, that wait for a stream


class SlowReader(RuntimeError):
    """Whoever reads a stream takes less than is said in the same time."""


class LiveStream:
    """One of the streams of a Batcher.

    Attributes:
        samples_in, frames_in, frames_out, samples_out: what has passed.
    """

    def __init__(self, batcher: Batcher, number: int, direction: str, num_codebooks: int):
        self._batcher, self.number, self.direction, self._codebooks = batcher, number, direction, num_codebooks
        model = batcher.model
        self._encodes = direction != "decode"
        self._unit = model.frame_size if self._encodes else 1  # inputs a frame
        self._rate = model.sample_rate / model.frame_size  # frames a second
        self._limit = max(1, round(AHEAD * self._rate))
        self._inputs: deque[np.ndarray] = deque()
        self._waiting = 0  # inputs of them
        self._outputs: deque[Output] = deque()
        self._frames = 0  # frames that a step has run for the outputs that wait
        self._costs: deque[int] = deque()
        self._ended = self._finished = self._running = self._closed = False
        self._error: Exception | None = None
        self._taken, self._watch = 0, None
        self._room, self._there, self._gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.samples_in = self.frames_in = self.samples_out = self.frames_out = 0

    def __enter__(self) -> LiveStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def num_codebooks(self) -> int:
        """Of the codes that are made. It may be changed at any time, and holds from the next step on. Raises ValueError
        for a number that the model does not have."""
        return self._codebooks

    @num_codebooks.setter
    def num_codebooks(self, number: int) -> None:
        self._codebooks = self._batcher.model.codebooks_for(number)

    async def send(self, inputs: np.ndarray) -> None:
        """Samples (n,), full scale at 1, at the model's rate; for decoding, codes (k, m), in whole groups of the frames
        that the quantizer codes together. n and m may be anything from 0 on.

        Waits while a second of them, or of outputs that nobody takes, is waiting. The array must not be changed after.
        Raises ValueError for what is none, SlowReader, and RuntimeError after `end`, `close`, or a failure of the model.
        """
        if self._ended:
            raise RuntimeError("this stream has been ended: open another one")
        self._check()
        inputs = self._samples(inputs) if self._encodes else self._codes(inputs)
        count = inputs.shape[-1]
        if self._encodes:
            self.samples_in += count
        else:
            self.frames_in += count
        if not count:
            return
        self._inputs.append(inputs)
        self._waiting += count
        self._batcher._consider(self)
        while self._waiting > self._limit * self._unit:
            self._room.clear()
            await self._room.wait()
            self._check()

    def end(self) -> None:
        """No inputs follow: what the model holds is given out, and `receive` comes to an end."""
        self._ended = True
        self._batcher._consider(self)

    async def receive(self) -> Output | None:
        """What has come out next; None at the end of the signal. Raises SlowReader and RuntimeError as `send` does."""
        while not self._outputs:
            self._check()
            if self._finished:
                return None
            self._there.clear()
            await self._there.wait()
        output, cost = self._outputs.popleft(), self._costs.popleft()
        self._frames -= cost
        self._taken += cost
        if self._watch is not None and self._frames < self._limit // 2:
            self._watch.cancel()
            self._watch = None
        self._batcher._consider(self)
        return output

    async def __aiter__(self) -> AsyncIterator[Output]:
        while (output := await self.receive()) is not None:
            yield output

    def close(self) -> None:
        """Frees the stream's place at once, whatever still waits. Closing again does nothing."""
        self._closed = True
        self._inputs.clear()
        self._outputs.clear()
        if self._watch is not None:
            self._watch.cancel()
        self._batcher._forget(self)
        for event in (self._room, self._there, self._gone):
            event.set()

    async def closed(self) -> None:
        """Waits for `close`. Raises the error, if one has closed it."""
        await self._gone.wait()
        if self._error is not None:
            raise self._error

    @property
    def samples_due(self) -> int:
        """How many samples come out when what has been sent so far is all: for "both" as many as went in, at the rate of
        the output; for "decode" what the frames hold."""
        model = self._batcher.model
        if not self._encodes:
            return self.frames_in * model.output_frame_size
        return -(-self.samples_in * model.output_sample_rate // model.sample_rate)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._closed:
            raise RuntimeError("this stream is closed: open another one")

    def _samples(self, wav: np.ndarray) -> np.ndarray:
        wav = as_samples(torch.as_tensor(wav)).numpy()
        if wav.ndim != 1:
            raise ValueError(f"samples have shape {wav.shape}: a stream takes one signal (n,)")
        return wav

    def _codes(self, codes: np.ndarray) -> np.ndarray:
        codes, model = np.asarray(codes, np.int64), self._batcher.model
        if codes.ndim != 2:
            raise ValueError(f"codes have shape {codes.shape}: a stream takes those of one signal (k, m)")
        sizes = np.array(model.codebook_sizes[: model.quantizer.check_count(len(codes))])
        if codes.shape[1] % model.quantizer.frame_multiple:
            raise ValueError(f"{codes.shape[1]} frames: this model codes {model.quantizer.frame_multiple} together")
        if ((codes < 0) | (codes >= sizes[:, None])).any():
            raise ValueError(f"codes lie outside 0 to {sizes[0] - 1}")
        return codes

    # What the batcher asks and says

    @property
    def ready(self) -> bool:
        """Whether there is something to do, and room for what comes of it."""
        if self._running or self._closed or self._finished or self._frames >= self._limit:
            return False
        return self._ended or self._waiting >= self._step * self._unit

    @property
    def _step(self) -> int:
        return 1 if self._encodes else self._batcher.model.quantizer.frame_multiple

    def job(self) -> Job:
        """What to do next: as many frames as a power of two says, so that streams with other numbers run together."""
        self._running = True
        frames = self._waiting // self._unit // self._step
        if frames:
            count = self._step * min(STEP_FRAMES, 1 << frames.bit_length() - 1) * self._unit
            last = False
        else:
            count, last = self._waiting, True
        return Job(self.number, self.direction, self._take(count), self.num_codebooks, last)

    def _take(self, count: int) -> np.ndarray:
        self._waiting -= count
        parts = []
        while count:
            first = self._inputs.popleft()
            if parts and first.shape[:-1] != parts[0].shape[:-1]:  # codes of another number of codebooks
                self._inputs.appendleft(first)
                self._waiting += count
                break
            if first.shape[-1] > count:
                self._inputs.appendleft(first[..., count:])
                first = first[..., :count]
            parts.append(first)
            count -= first.shape[-1]
        if not parts:
            return np.zeros(0, np.float32) if self._encodes else np.zeros((self.num_codebooks, 0), np.int64)
        return np.concatenate(parts, -1) if len(parts) > 1 else parts[0]

    def deliver(self, output: Output, last: bool) -> None:
        """What a step has given."""
        self._running = False
        if self._closed:
            return
        self._finished = last
        frames = 0 if output.codes is None else output.codes.shape[1]
        samples = 0 if output.samples is None else len(output.samples)
        self.frames_out += frames
        self.samples_out += samples
        if frames or samples:
            cost = max(frames, -(-samples // self._batcher.model.output_frame_size))
            self._outputs.append(output)
            self._costs.append(cost)
            self._frames += cost
            if self._frames >= self._limit and self._watch is None:
                self._watch_reader()
        self._there.set()
        if self._waiting <= self._limit * self._unit:
            self._room.set()

    def _watch_reader(self) -> None:
        taken, patience = self._taken, self._batcher.patience

        def judge() -> None:
            if self._taken - taken < patience * self._rate:
                self.fail(SlowReader(f"slow client: for {patience:g} s, less than {patience:g} s of output were taken"))
            else:
                self._watch_reader()

        self._watch = asyncio.get_running_loop().call_later(patience, judge)

    def fail(self, error: Exception) -> None:
        """End the stream with an error, which whoever sends or receives is told."""
        self._error = error
        self.close()
