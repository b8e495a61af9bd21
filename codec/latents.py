"""Continuous latents, as they are before quantization, for diffusion and flow models.

    latents = codec.latents.encode(model, wav)       # (B, 1, T) at the model's rate to (B, dim, n)
    wav = codec.latents.decode(model, latents)       # (B, 1, n * output_frame_size)

`model.quantizer.encode(latents)` makes the codes of `model.encode_frames(wav)`, and `model.quantizer.decode(codes)` quantized latents.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.adapters import AdaptedCodec
from codec.coding import BLOCK_FRAMES, Decoding, run_over
from codec.model import Codec


@torch.no_grad()
def encode(model: Codec, wav: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
    """wav (B, 1, T) at the model's rate to latents (B, dim, n) float32, n = ceil(T / frame_size), in whole groups where codes
    are held for several frames.

    lengths (B,): valid samples of each row, all by default. A row's latents are those that it has alone; behind them are
    zeros. Raises ValueError for another shape and for a model whose networks are not here.
    """
    rows, samples = _checked(model, wav, 1, "wav", "T"), wav.shape[2]
    size, multiple = model.frame_size, model.quantizer.frame_multiple
    lengths = [samples] * rows if lengths is None else _lengths(lengths, rows, samples)
    latents = torch.zeros(rows, model.config.dim, -(-max(lengths, default=0) // (size * multiple)) * multiple, device=wav.device)
    for length in set(lengths) - {0}:
        members = [row for row, own in enumerate(lengths) if own == length]
        part = wav[members, :, :length].float()
        part = F.pad(part, (0, -length % (size * multiple))) if multiple > 1 else part
        start = 0
        for block in run_over(model.encoder, size, 1).finish(part):
            latents[members, :, start : start + block.shape[2]] = block
            start += block.shape[2]
    return latents


@torch.no_grad()
def decode(model: Codec, latents: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
    """latents (B, dim, n), quantized or not, to samples (B, 1, n * output_frame_size) at `model.output_sample_rate`.

    lengths (B,): valid frames of each row, all by default; behind them is silence. Raises ValueError as `encode` does.
    """
    rows, frames = _checked(model, latents, model.config.dim, "latents", "n"), latents.shape[2]
    size = model.output_frame_size
    lengths = [frames] * rows if lengths is None else _lengths(lengths, rows, frames)
    wav = torch.zeros(rows, 1, frames * size, device=latents.device)
    for length in set(lengths) - {0}:
        members = [row for row, own in enumerate(lengths) if own == length]
        coding = Decoding(model, len(members))
        *first, last = latents[members, :, :length].float().split(BLOCK_FRAMES, 2)
        samples = torch.cat([*map(coding.push, first), coding.finish(last)], 2)
        wav[members, :, : length * size] = samples[..., : length * size]
    return wav


def _checked(model: Codec, x: Tensor, channels: int, name: str, length: str) -> int:
    """The number of rows."""
    if isinstance(model, AdaptedCodec):
        raise ValueError(f"{model.config.name} is coded outside and has no latents here")
    model.check_dtype()
    if x.dim() != 3 or x.shape[1] != channels or not x.is_floating_point():
        raise ValueError(f"{name} is {x.dtype} {tuple(x.shape)}: it must be floating-point (B, {channels}, {length})")
    return len(x)


def _lengths(lengths: Sequence[int], rows: int, most: int) -> list[int]:
    lengths = [int(n) for n in lengths]
    if len(lengths) != rows or not all(0 <= n <= most for n in lengths):
        raise ValueError(f"lengths={lengths[:8]} must be {rows} numbers from 0 to {most}")
    return lengths
