"""Encoding and decoding live: any chunk sizes, the same tokens as `Codec.encode`, the same samples as `Codec.decode`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from codec.model import Codec


class Stream:
    """State of one live encoder and one live decoder, which do not depend on each other.

    Made by `model.stream(batch_size)`. The decoder's output lags by `model.decoder.delay` samples; the first ones, from
    before the start of the signal, are left out, so that the output is aligned with the input.
    """

    def __init__(self, model: Codec, batch_size: int, num_codebooks: int):
        self.model, self.batch_size, self.num_codebooks = model, batch_size, num_codebooks
        self._pending = torch.zeros(batch_size, 1, 0, device=model.device)
        self._encoder_state = self._decoder_state = None
        self._skip = model.decoder.delay

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self._encoder_state = self._decoder_state = None

    @torch.inference_mode()
    def encode(self, pcm: Tensor) -> Tensor:
        """Samples (B, 1, n) at the model's rate, n >= 0, to the codes (B, K, m) of the frames that are now full."""
        if pcm.dim() != 3 or pcm.shape[:2] != (self.batch_size, 1):
            raise ValueError(f"pcm has shape {tuple(pcm.shape)}: this stream takes ({self.batch_size}, 1, n)")
        size = self.model.frame_size
        wav = torch.cat([self._pending, pcm.to(self._pending)], dim=2)
        frames = wav.shape[2] // size
        self._pending = wav[..., frames * size :].clone()
        if frames == 0:
            return torch.zeros(self.batch_size, self.num_codebooks, 0, dtype=torch.int64, device=wav.device)
        latents, self._encoder_state = self.model.encoder(wav[..., : frames * size], self._encoder_state)
        return self.model.quantizer.encode(latents, self.num_codebooks)

    def flush(self) -> Tensor:
        """The code (B, K, 1) of the last frame, filled up with zeros, or (B, K, 0) when no samples wait."""
        missing = -self._pending.shape[2] % self.model.frame_size
        return self.encode(self._pending.new_zeros(self.batch_size, 1, missing))

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, k, m) to the samples (B, 1, n) that are now finished."""
        if codes.dim() != 3 or codes.shape[0] != self.batch_size:
            raise ValueError(f"codes have shape {tuple(codes.shape)}: this stream takes ({self.batch_size}, k, m)")
        if codes.shape[2] == 0:
            return self._pending.new_zeros(self.batch_size, 1, 0)
        return self._synthesize(self.model.quantizer.decode(codes.to(self.model.device)))

    @torch.inference_mode()
    def flush_decoder(self) -> Tensor:
        """The last samples (B, 1, n), still inside the decoder."""
        tail = self.model.silence(self.batch_size)
        surplus = tail.shape[2] * self.model.frame_size - self.model.decoder.delay
        wav = self._synthesize(tail)
        return wav[..., : wav.shape[2] - surplus]

    def _synthesize(self, latents: Tensor) -> Tensor:
        wav, self._decoder_state = self.model.decoder(latents, self._decoder_state)
        skip = min(self._skip, wav.shape[2])
        self._skip -= skip
        return wav[..., skip:]
