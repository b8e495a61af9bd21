"""Running an encoder or a decoder over a signal that comes in parts, by what the network can do.

A causal network keeps state and never looks ahead. A network with a finite receptive field runs on blocks with their
surroundings: what it makes of the surroundings is thrown away, so that the result is that of the whole signal. A network that
sees all of a signal runs on windows of a fixed grid, which makes another result than the whole signal does. `run_over`
gives the one that fits: `push` what is there, then `finish`, with the last part or without any; both yield blocks of what
has become ready.

What a network says of itself is in `codec.backbones.base`. A causal one that is `ragged` is given what is left at the end as
it is; where the start of a signal is shorter than `start_frames`, there is no more of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Union

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.backbones.base import Network
from codec.rows import Rows

BLOCK_FRAMES = 500  # networks run over long audio in blocks of at most this many frames: constant memory


class Causal(Rows):
    """unit: inputs a frame, samples for an encoder and 1 for a decoder."""

    states = ("_pending", "_state")

    def __init__(self, network: nn.Module, unit: int):
        self.network, self.unit = network, unit
        self._pending: Tensor | None = None  # inputs (B, C, n) of frames that are not full, or of a start too short
        self._state = None

    def push(self, x: Tensor) -> Iterator[Tensor]:
        x = x if self._pending is None else torch.cat([self._pending, x], 2)
        ready = x.shape[2] // self.unit
        if self._state is None and ready < self.network.start_frames:
            ready = 0
        yield from self._run(x, ready)

    def finish(self, x: Tensor | None = None) -> Iterator[Tensor]:
        parts = [part for part in (self._pending, x) if part is not None]
        if not parts:
            return
        x = torch.cat(parts, 2)
        if not self.network.ragged:
            x = F.pad(x, (0, -x.shape[2] % self.unit))
        yield from self._run(x, -(-x.shape[2] // self.unit))

    def _run(self, x: Tensor, frames: int) -> Iterator[Tensor]:
        rest = x[..., frames * self.unit :]
        self._pending = rest.clone() if rest.shape[2] else None  # a view would keep the whole chunk alive
        for start, stop in _blocks(0, frames, min(BLOCK_FRAMES, self.network.block_frames)):
            part = x[..., start * self.unit : stop * self.unit]
            y, self._state = self.network(part, self._state)
            yield y


class WithContext(Rows):
    """unit as above; out: outputs a frame, 1 for an encoder and samples for a decoder. Outputs lag by the context."""

    states, numbers = ("_kept",), ("_next",)

    def __init__(self, network: nn.Module, unit: int, out: int):
        self.network, self.unit, self.out = network, unit, out
        self._kept: Tensor | None = None  # inputs from the start of the signal, or from a context before `_next`, on
        self._next = 0  # the first frame without outputs, counted in what is kept

    def push(self, x: Tensor) -> Iterator[Tensor]:
        self._add(x)
        # The last samples here may be the signal's: a ragged network must be told of them.
        inside = max(0, self._kept.shape[2] - (1 if self.network.ragged else 0)) // self.unit
        yield from self._run(inside - self.network.context, last=False)

    def finish(self, x: Tensor | None = None) -> Iterator[Tensor]:
        if x is not None:
            self._add(x)
        if self._kept is None:
            return
        if not self.network.ragged:
            self._kept = F.pad(self._kept, (0, -self._kept.shape[2] % self.unit))
        yield from self._run(-(-self._kept.shape[2] // self.unit), last=True)

    def _add(self, x: Tensor) -> None:
        self._kept = x if self._kept is None else torch.cat([self._kept, x], 2)

    def _run(self, until: int, last: bool) -> Iterator[Tensor]:
        context, frames = self.network.context, until - self._next
        blocks = -(-frames // min(BLOCK_FRAMES, self.network.block_frames))  # of one size: a short one is mostly context
        for start, stop in _blocks(self._next, until, -(-frames // max(1, blocks))):
            left = max(0, start - context)
            right = None if last and stop + context >= until else (stop + context) * self.unit
            y, _ = self.network(self._kept[..., left * self.unit : right])
            yield y[..., (start - left) * self.out : (stop - left) * self.out]
            self._next = stop
        keep = max(0, self._next - context)
        self._kept = self._kept[..., keep * self.unit :].clone()  # a view would keep all of it alive
        self._next -= keep


class Windows(Rows):
    """For networks without bounds to what they see (`network.window`): windows of so many frames, each of which starts where
    the last `overlap` frames of the one before start. Of an overlap, one half is kept of each.

    The grid is counted from the start of the signal, so the result does not depend on the sizes of the parts. A signal of one
    window or less is run whole; the last window of a longer one is longer than the overlap.
    """

    states, numbers = ("_kept",), ("_skip",)

    def __init__(self, network: nn.Module, unit: int, out: int):
        self.network, self.unit, self.out = network, unit, out
        self._kept: Tensor | None = None  # inputs from the start of the next window on
        self._skip = 0  # frames of the next window that the one before has given

    def push(self, x: Tensor) -> Iterator[Tensor]:
        self._kept = x if self._kept is None else torch.cat([self._kept, x], 2)
        frames, overlap = self.network.window
        start = 0
        while self._kept.shape[2] - start > frames * self.unit:  # one that ends where the signal does is its last
            y, _ = self.network(self._kept[..., start : start + frames * self.unit])
            yield y[..., self._skip * self.out : (frames - overlap + overlap // 2) * self.out]
            start, self._skip = start + (frames - overlap) * self.unit, overlap // 2
        if start:
            self._kept = self._kept[..., start:].clone()  # a view would keep all of it alive

    def finish(self, x: Tensor | None = None) -> Iterator[Tensor]:
        if x is not None:
            yield from self.push(x)
        if self._kept is None or self._kept.shape[2] == 0:
            return
        if not self.network.ragged:
            self._kept = F.pad(self._kept, (0, -self._kept.shape[2] % self.unit))
        y, _ = self.network(self._kept)
        yield y[..., self._skip * self.out :]


Run = Union[Causal, WithContext, Windows]


def run_over(network: nn.Module, unit: int, out: int) -> Run:
    """A run of an encoder (unit = samples a frame, out = 1) or a decoder (the other way round)."""
    if network.window is not None:
        return Windows(network, unit, out)
    return Causal(network, unit) if network.context is None else WithContext(network, unit, out)


def push_frames(network: Network) -> int:
    """Frames of a long signal to push at once: whole blocks of the network."""
    block = min(BLOCK_FRAMES, network.block_frames)
    return BLOCK_FRAMES // block * block


class Encoding(Rows):
    """Samples (B, 1, n) to the codes (B, k, m) that are ready. Frames that the quantizer codes together come together: zeros
    fill up the last ones, as they fill up the last frame. beam: of the quantizer's search, its own for None."""

    states, numbers, parts = ("_latents",), ("_samples",), ("_run",)

    def __init__(self, model, batch_size: int, num_codebooks: int, beam: int | None = None):
        self.batch_size = batch_size
        self._quantizer, self.num_codebooks, self._beam = model.quantizer, num_codebooks, beam
        self._group = model.frame_size * model.quantizer.frame_multiple
        self._samples = 0  # of frames that the quantizer codes together and that are not all there
        self._run = run_over(model.encoder, model.frame_size, 1)
        self._run.batch_size = batch_size
        self._device = model.device
        self._latents: Tensor | None = None  # of frames that the quantizer codes together with ones to come

    def push(self, wav: Tensor) -> Tensor:
        self._samples = (self._samples + wav.shape[2]) % self._group
        return self._joined([self._quantize(latents) for latents in self._run.push(wav)])

    def finish(self, wav: Tensor | None = None) -> Tensor:
        wav = self._empty(1).float() if wav is None else wav
        if self._quantizer.frame_multiple > 1:
            wav = F.pad(wav, (0, -(self._samples + wav.shape[2]) % self._group))
        self._samples = 0
        return self._joined([self._quantize(latents) for latents in self._run.finish(wav)])

    def _joined(self, codes: list[Tensor]) -> Tensor:
        return codes[0] if len(codes) == 1 else torch.cat([self._empty(self.num_codebooks), *codes], 2)

    def _empty(self, channels: int) -> Tensor:
        return torch.zeros(self.batch_size, channels, 0, dtype=torch.int64, device=self._device)

    def _quantize(self, latents: Tensor) -> Tensor:
        multiple = self._quantizer.frame_multiple
        if multiple > 1:
            latents = latents if self._latents is None else torch.cat([self._latents, latents], 2)
            whole = latents.shape[2] // multiple * multiple
            self._latents = latents[..., whole:].clone() if whole < latents.shape[2] else None
            latents = latents[..., :whole]
        return self._quantizer.encode(latents, self.num_codebooks, self._beam)


class Decoding(Rows):
    """Latents (B, dim, m) to the samples (B, 1, n) that are finished, at the decoder's rate. Its first `delay` samples, from
    before the start of the signal, are left out, so that the output is aligned with what was encoded."""

    numbers, parts = ("_skip",), ("_run",)

    def __init__(self, model, batch_size: int):
        self.batch_size = batch_size
        self._run = run_over(model.decoder, 1, model.output_frame_size)
        self._run.batch_size = batch_size
        self._size, self._delay = model.output_frame_size, model.decoder.delay
        self._skip = self._delay
        self._silence = torch.zeros(1, model.config.dim, -(-self._delay // self._size), device=model.device)

    def push(self, latents: Tensor) -> Tensor:
        return self._joined([self._aligned(wav) for wav in self._run.push(latents)])

    def finish(self, latents: Tensor | None = None) -> Tensor:
        wav = [self._aligned(wav) for wav in self._run.finish(latents)]
        if self._delay:  # only a causal decoder has one: silence pushes the last samples out
            silence = self._silence.expand(self.batch_size, -1, -1)
            tail = torch.cat([self._aligned(part) for part in self._run.push(silence)], 2)
            wav.append(tail[..., : tail.shape[2] - -self._delay % self._size])
        return self._joined(wav)

    def _joined(self, wav: list[Tensor]) -> Tensor:
        return wav[0] if len(wav) == 1 else torch.cat([self._silence.new_zeros(self.batch_size, 1, 0), *wav], 2)

    def _aligned(self, wav: Tensor) -> Tensor:
        skip = min(self._skip, wav.shape[2])
        self._skip -= skip
        return wav[..., skip:]


def _blocks(begin: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(begin, end, max(1, size)):
        yield start, min(start + size, end)
