"""Small published models with random weights, and what parity means."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch
from torch import Tensor


def save(model, directory: Path) -> Path:
    """As its own `save_pretrained` writes it, quietly."""
    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        model.save_pretrained(directory)
    return directory


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Coloured, so that it has structure: samples (..., T) of about 0.3."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(*shape[:-1], shape[-1] + 8, generator=generator)
    return 0.3 * white.unfold(-1, 9, 1).mean(-1) * 3


def assert_codes(codes: Tensor, expected: Tensor) -> None:
    """The same codes (B, K, T'); among many, one of 1,000 frames may have met a tie and go on differently from there."""
    assert codes.shape == expected.shape
    frames = (codes != expected).any(1).float().mean()
    assert frames == 0 or (frames <= 1e-3 and expected.shape[2] >= 500)


def stream(model, wav: Tensor, sizes: list[int], k: int) -> tuple[Tensor, Tensor]:
    """Codes and samples of wav (B, 1, T) through a live stream, in chunks of `sizes` over and over."""
    codes, pcm, start, turn = [], [], 0, 0
    with model.stream(wav.shape[0], k) as live:
        while start < wav.shape[2]:
            size = sizes[turn % len(sizes)]
            codes.append(live.encode(wav[..., start : start + size]))
            pcm.append(live.decode(codes[-1]))
            start, turn = start + size, turn + 1
        codes.append(live.flush())
        pcm += [live.decode(codes[-1]), live.flush_decoder()]
    return torch.cat(codes, 2), torch.cat(pcm, 2)
