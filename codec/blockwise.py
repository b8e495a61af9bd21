"""Coding in blocks of a few seconds, for what looks at a whole block before it chooses its codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.coding import run_over

if TYPE_CHECKING:
    from codec.model import Codec

BLOCK = 4.0  # seconds
PART = 0.16  # seconds that are encoded at once, whatever came at once: encoders round by the length


class Blockwise(ABC):
    """Samples (B, 1, n) at the model's rate to codes (B, k, m), in blocks of four seconds: `push` what is there, then `finish`. Codes
    depend on the audio alone, neither on the other rows nor on the sizes of its parts.

    ahead: seconds of latents behind a block that `_code` wants to see, where the signal does not end before.
    """

    def __init__(self, model: Codec, batch_size: int, num_codebooks: int, ahead: float = 0.0):
        self._model, self._k = model, num_codebooks
        self._together, self._size = model.quantizer.frame_multiple, model.frame_size
        self._block, self._part = self._frames(BLOCK), self._frames(PART)
        self._ahead = self._frames(ahead) if ahead else 0
        self._encoder = run_over(model.encoder, model.frame_size, 1)
        self._encoder.batch_size = batch_size
        self._arrived = 0  # samples
        self._waiting = torch.zeros(batch_size, 1, 0, device=model.device)  # samples that are not encoded yet
        self._latents = torch.zeros(batch_size, model.config.dim, 0, device=model.device)  # without codes yet

    @abstractmethod
    def _code(self, frames: int) -> Tensor:
        """Codes (B, k, frames) for the first of `_latents`."""

    @torch.inference_mode(False)
    def push(self, wav: Tensor) -> Tensor:
        self._take(wav.clone(), last=False)
        return self._ready(last=False)

    @torch.inference_mode(False)
    def finish(self, wav: Tensor | None = None) -> Tensor:
        self._take(self._waiting[..., :0] if wav is None else wav.clone(), last=True)
        return self._ready(last=True)

    @torch.no_grad()
    def _take(self, wav: Tensor, last: bool) -> Tensor:
        """The samples as they came, at the end with those that fill up the last frames."""
        self._arrived += wav.shape[2]
        whole = F.pad(wav, (0, -self._arrived % (self._size * self._together) if last else 0))
        own = wav if self._together == 1 else whole  # an encoder fills up a frame for itself, but not a group of frames
        waiting = torch.cat([self._waiting, own], 2)
        part = self._part * self._size
        ready, rest = waiting.tensor_split([waiting.shape[2] // part * part], 2)
        self._waiting = rest.clone()
        latents = [each for samples in ready.split(part, 2) if samples.shape[2] for each in self._encoder.push(samples)]
        if last:
            latents += self._encoder.finish(self._waiting)
        self._latents = torch.cat([self._latents, *latents], 2)
        return whole

    @torch.no_grad()
    def _ready(self, last: bool) -> Tensor:
        codes = [torch.zeros(len(self._latents), self._k, 0, dtype=torch.int64, device=self._latents.device)]
        while self._latents.shape[2] >= self._block + self._ahead:
            codes.append(self._next(self._block))
        if last and self._latents.shape[2]:
            codes.append(self._next(self._latents.shape[2]))
        return torch.cat(codes, 2)

    def _next(self, frames: int) -> Tensor:
        codes = self._code(frames)
        self._latents = self._latents[..., frames:].clone()
        return codes

    def _frames(self, seconds: float) -> int:
        return max(1, round(seconds * self._model.frame_rate / self._together)) * self._together
