"""Masked spans for models that write in parallel (Ziv et al. 2024, MAGNeT, sections 3.1 and 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SPAN = 3  # frames: 60 ms at 50 frames a second, the paper's best


def rates(steps: int) -> list[float]:
    """The share of frames that is masked at each of `steps` decoding steps: cos(pi / 2 * i / steps), from 1 on."""
    if steps < 1:
        raise ValueError(f"steps={steps}: at least 1 is needed")
    return [math.cos(math.pi / 2 * index / steps) for index in range(steps)]


def training_rate(uniform: float) -> float:
    """The share that is masked in training, from a number drawn uniformly from 0 to 1: cos(pi / 2 * u)."""
    if not 0 <= uniform <= 1:
        raise ValueError(f"{uniform:g} must lie in 0 to 1")
    return math.cos(math.pi / 2 * uniform)


def span_count(frames: int, rate: float, span: int = SPAN) -> int:
    """Spans whose starts are drawn without repetition so that the share of masked frames comes nearest to `rate`.

    A frame stays visible when none of the `span` starts that cover it is drawn, which for u starts out of `frames` has the
    probability C(frames - span, u) / C(frames, u). All frames are starts at a rate of 1, so that nothing stays visible.
    """
    if not 0 <= rate <= 1 or span < 1 or frames < 0:
        raise ValueError(f"rate={rate:g} must lie in 0 to 1, span={span} be 1 or more, frames={frames} be 0 or more")
    if rate == 1:
        return frames
    best, count, visible = rate, 0, 1.0  # the error of no span
    for u in range(1, frames + 1):
        # C(n - s, u) / C(n, u) is the one before times (n - s - u + 1) / (n - u + 1)
        visible *= max(0, frames - span - u + 1) / (frames - u + 1)
        if abs(1 - visible - rate) < best:
            best, count = abs(1 - visible - rate), u
    return count


def random_spans(
    lengths: Sequence[int], rate: float | Sequence[float], span: int = SPAN, generator: torch.Generator | None = None
) -> Tensor:
    """A mask (B, T) bool, T the longest of `lengths`: True in spans of frames that are to be predicted, drawn at random so
    that about `rate` (one, or one a row) of a row's own frames is masked. Spans may overlap, and end where the row does."""
    mask = torch.zeros(len(lengths), max(lengths, default=0), dtype=torch.bool)
    every = [rate] * len(lengths) if isinstance(rate, (int, float)) else list(rate)
    if len(every) != len(lengths):
        raise ValueError(f"{len(every)} rates for {len(lengths)} rows: give one, or one for each")
    for row, frames, share in zip(mask, lengths, every):
        starts = torch.randperm(frames, generator=generator)[: span_count(frames, share, span)]
        row[:frames] = _spanned(starts, frames, span)
    return mask


def unlikely_spans(scores: Tensor, rate: float, span: int = SPAN) -> Tensor:
    """Which frames a decoding step masks again: scores (B, T), the probabilities of the codes that were written, to a mask
    (B, T) bool. A span counts as likely as its likeliest frame, and the least likely ones are masked, as many as
    `span_count` says."""
    if scores.dim() != 2:
        raise ValueError(f"scores have shape {tuple(scores.shape)}: they must be (B, T)")
    batch, frames = scores.shape
    if not frames:
        return torch.zeros(batch, 0, dtype=torch.bool, device=scores.device)
    ahead = torch.nn.functional.pad(scores.float(), (0, span - 1), value=-math.inf)
    likeliest = ahead.unfold(1, span, 1).amax(2)  # (B, T): of the span from each frame on
    chosen = likeliest.argsort(dim=1, stable=True)[:, : span_count(frames, rate, span)]
    return torch.stack([_spanned(starts, frames, span) for starts in chosen])


def _spanned(starts: Tensor, frames: int, span: int) -> Tensor:
    """Spans from `starts` on as a mask (frames,)."""
    mask = torch.zeros(frames + span, dtype=torch.bool, device=starts.device)
    mask[(starts[:, None] + torch.arange(span, device=starts.device)).flatten()] = True
    return mask[:frames]
