"""Encoding and decoding live: any chunk sizes, the same tokens as `Codec.encode`, the same samples as `Codec.decode`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from codec.model import Codec

BLOCK_FRAMES = 500  # the network runs over long audio in blocks of this many frames, with state: constant memory


def as_samples(wav: Tensor) -> Tensor:
    """The same samples in float32. Raises ValueError unless they are finite floating-point numbers."""
    if not wav.dtype.is_floating_point:
        raise ValueError(f"samples are {wav.dtype}: scale them to full scale 1 first, e.g. wav / 32768 for 16-bit PCM")
    wav = wav.float()
    if not torch.isfinite(wav).all():
        raise ValueError("samples are NaN or infinite: repair them first, e.g. torch.nan_to_num(wav)")
    return wav


class Stream:
    """State of one live encoder and one live decoder, which do not depend on each other.

    Made by `model.stream(batch_size)`. The decoder's output lags by `model.decoder.delay` samples; the first ones, from
    before the start of the signal, are left out, so that the output is aligned with the input.
    """

    def __init__(self, model: Codec, batch_size: int, num_codebooks: int):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: a stream carries at least one signal")
        self.model, self.batch_size, self.num_codebooks = model, batch_size, num_codebooks
        self._restart()

    def _restart(self) -> None:
        self._pending = torch.zeros(self.batch_size, 1, 0, device=self.model.device)
        self._encoder_state = self._decoder_state = None
        self._skip = self.model.decoder.delay

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self._restart()

    @torch.no_grad()
    def encode(self, pcm: Tensor) -> Tensor:
        """Samples (B, 1, n) at the model's rate, n >= 0, to the codes (B, K, m) of the frames that are now full: m is a
        multiple of the frames that the quantizer codes together (1 for most).

        Raises ValueError for another shape, integers, and samples that are not finite; the stream then is as it was.
        """
        if pcm.dim() != 3 or pcm.shape[:2] != (self.batch_size, 1):
            raise ValueError(f"pcm has shape {tuple(pcm.shape)}: this stream takes ({self.batch_size}, 1, n)")
        wav = torch.cat([self._pending, as_samples(pcm).to(self._pending.device)], dim=2)
        together = self.model.quantizer.frame_multiple
        return self._encode(wav, wav.shape[2] // (self.model.frame_size * together) * together)

    @torch.no_grad()
    def flush(self) -> Tensor:
        """The codes (B, K, m) of the last frames, filled up with zeros; m is 0 when no samples wait."""
        size = self.model.frame_size
        wav = F.pad(self._pending, (0, -self._pending.shape[2] % size))
        return self._encode(wav, wav.shape[2] // size)

    def _encode(self, wav: Tensor, frames: int) -> Tensor:
        """Encode the first frames of wav (B, 1, n) and keep the rest."""
        size = self.model.frame_size
        self._pending = wav[..., frames * size :].clone()  # a view would keep the whole chunk alive
        codes = [torch.zeros(self.batch_size, self.num_codebooks, 0, dtype=torch.int64, device=wav.device)]
        if frames:
            for block in wav[..., : frames * size].split(self.model.block_frames * size, dim=2):
                latents, self._encoder_state = self.model.encoder(block, self._encoder_state)
                codes.append(self.model.quantizer.encode(latents, self.num_codebooks))
        return torch.cat(codes, 2)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, k, m) to the samples (B, 1, n) that are now finished.

        Raises ValueError for codes of another shape, more codebooks than the model has, or numbers outside them.
        """
        if codes.dim() != 3 or codes.shape[0] != self.batch_size:
            raise ValueError(f"codes have shape {tuple(codes.shape)}: this stream takes ({self.batch_size}, k, m)")
        sizes = self.model.codebook_sizes[: self.model.quantizer.check_count(codes.shape[1])]
        if codes.numel() and (codes.min() < 0 or (codes.amax((0, 2)).cpu() >= torch.tensor(sizes)).any()):
            raise ValueError(f"codes lie outside 0 to {sizes[0] - 1}: take special tokens and offsets out first")
        wav = [torch.zeros(self.batch_size, 1, 0, device=self.model.device)]
        if codes.shape[2]:
            for block in codes.to(self.model.device).split(BLOCK_FRAMES, dim=2):
                wav.append(self._synthesize(self.model.quantizer.decode(block)))
        return torch.cat(wav, 2)

    @torch.no_grad()
    def flush_decoder(self) -> Tensor:
        """The last samples (B, 1, n), still inside the decoder."""
        tail = self.model.silence(self.batch_size)
        if tail.shape[2] == 0:  # a decoder without delay keeps nothing back
            return self._pending.new_zeros(self.batch_size, 1, 0)
        surplus = tail.shape[2] * self.model.frame_size - self.model.decoder.delay
        wav = self._synthesize(tail)
        return wav[..., : wav.shape[2] - surplus]

    def _synthesize(self, latents: Tensor) -> Tensor:
        wav, self._decoder_state = self.model.decoder(latents, self._decoder_state)
        skip = min(self._skip, wav.shape[2])
        self._skip -= skip
        return wav[..., skip:]
