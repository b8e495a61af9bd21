"""Encoding and decoding live: any chunk sizes, the same tokens as `Codec.encode`, the same samples as `Codec.decode`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codec.coding import BLOCK_FRAMES, Decoding, Encoding

if TYPE_CHECKING:
    from codec.model import Codec


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
        self._encoding = Encoding(self.model, self.batch_size, self.num_codebooks)
        self._decoding = Decoding(self.model, self.batch_size)

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
        return self._encoding.push(as_samples(pcm).to(self.model.device))

    @torch.no_grad()
    def flush(self) -> Tensor:
        """The codes (B, K, m) of the last frames, filled up with zeros; m is 0 when no samples wait."""
        return self._encoding.finish()

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, k, m) to the samples (B, 1, n) that are now finished, at `model.output_sample_rate`.

        Raises ValueError for codes of another shape, more codebooks than the model has, or numbers outside them.
        """
        if codes.dim() != 3 or codes.shape[0] != self.batch_size:
            raise ValueError(f"codes have shape {tuple(codes.shape)}: this stream takes ({self.batch_size}, k, m)")
        sizes = self.model.codebook_sizes[: self.model.quantizer.check_count(codes.shape[1])]
        if codes.numel() and (codes.min() < 0 or (codes.amax((0, 2)).cpu() >= torch.tensor(sizes)).any()):
            raise ValueError(f"codes lie outside 0 to {sizes[0] - 1}: take special tokens and offsets out first")
        latents = [self.model.quantizer.decode(block) for block in codes.to(self.model.device).split(BLOCK_FRAMES, 2)]
        return self._decoding.push(torch.cat(latents, 2))

    @torch.no_grad()
    def flush_decoder(self) -> Tensor:
        """The last samples (B, 1, n), still inside the decoder, at `model.output_sample_rate`."""
        return self._decoding.finish()
