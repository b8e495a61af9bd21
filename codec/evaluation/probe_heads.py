"""Small networks on frozen codes: what a probe trains. They see codes and nothing else.

Codes become vectors of at most 32 numbers, which are trained along: they start from what each code adds to the decoded latents
(`probe_tokens.code_vectors`, its 32 strongest directions), or from random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HIDDEN = 32, 64
POOLED_RATE = 12.5  # frames a second, about, where a classifier looks for words
BATCH = 32

Progress = Callable[[int, int], None]


class CodeVectors(nn.Module):
    """codes (B, K, T) to the sum of their vectors (B, width, T), 0 where mask (B, T) is False.

    tables: for each codebook (size, width), what the vectors start from.
    """

    def __init__(self, tables: Sequence[Tensor]):
        super().__init__()
        self.tables = nn.ParameterList([nn.Parameter(table.clone()) for table in tables])

    def forward(self, codes: Tensor, mask: Tensor) -> Tensor:
        vectors = sum(F.embedding(codes[:, k], table) for k, table in enumerate(self.tables))
        return (vectors * mask[..., None]).transpose(1, 2)


def start_tables(vectors: Sequence[Tensor | None], sizes: Sequence[int], seed: int) -> list[Tensor]:
    """Tables for `CodeVectors`: `vectors` (size, dim) for each codebook in their WIDTH strongest common directions, or where
    there are none random numbers. The sum over codebooks has unit power."""
    if any(table is None for table in vectors):
        generator = torch.Generator().manual_seed(seed)
        tables = [torch.randn(size, WIDTH, generator=generator) for size in sizes]
    else:
        _, _, directions = torch.linalg.svd(torch.cat(list(vectors)), full_matrices=False)
        tables = [table @ directions[:WIDTH].T for table in vectors]
    power = sum(table.square().mean() for table in tables)
    return [table / power.sqrt().clamp_min(1e-8) for table in tables]


class Bands(nn.Module):
    """Spectra (B, width, T) as they are, but for each band's mean and deviation (width,), and 0 where mask (B, T) is False."""

    def __init__(self, mean: Tensor, deviation: Tensor):
        super().__init__()
        self.register_buffer("mean", mean[:, None])
        self.register_buffer("deviation", deviation[:, None].clamp_min(1e-3))

    def forward(self, spectra: Tensor, mask: Tensor) -> Tensor:
        return (spectra - self.mean) / self.deviation * mask[:, None]


class Classifier(nn.Module):
    """Frames of whole recordings to logits, one set of classes for each question: convolutions down to about 12.5 frames a
    second, a score of every class in every frame, and the best frame of each class. What is said once, anywhere, counts.

    front: makes vectors (B, width, T) of frames (B, K, T), `CodeVectors` or `Bands`; classes: how many for each question; frame_rate: of
    the frames.
    """

    def __init__(self, front: nn.Module, width: int, classes: Sequence[int], frame_rate: float, dropout: float = 0.2):
        super().__init__()
        self.vectors, self.classes = front, list(classes)
        halvings = min(3, max(0, round(math.log2(frame_rate / POOLED_RATE))))
        strides = [2] * halvings + [1] * (3 - halvings)
        widths = [width, HIDDEN, HIDDEN, HIDDEN]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv1d(a, b, 5, stride=s, padding=2), nn.BatchNorm1d(b), nn.ReLU(), nn.Dropout(dropout))
            for a, b, s in zip(widths, widths[1:], strides)
        )
        self.out = nn.Conv1d(2 * HIDDEN, sum(classes), 1)

    def forward(self, codes: Tensor, mask: Tensor) -> list[Tensor]:
        """codes (B, K, T), mask (B, T) to logits (B, classes) of each question."""
        frames = self.vectors(codes, mask)
        for layer in self.layers:
            mask = mask[:, :: layer[0].stride[0]]
            frames = layer(frames) * mask[:, None]
        inside = mask[:, None]  # (B, 1, T / stride)
        mean = (frames * inside).sum(2, keepdim=True) / inside.sum(2, keepdim=True)
        frames = torch.cat([frames, mean.expand_as(frames)], 1)
        return list(self.out(frames).masked_fill(~inside, -1e4).amax(2).split(self.classes, 1))


def classify(
    front: Sequence[Tensor] | nn.Module,
    train: Sequence[Tensor],
    answers: np.ndarray,
    test: Sequence[Tensor],
    classes: Sequence[int],
    frame_rate: float,
    steps: int,
    seed: int,
    crop: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Train a `Classifier` and let it answer.

    front: tables for `CodeVectors`, or a module in its place; train, test: codes or spectra (K, T) each; answers (N, S) int of
    `train`, -1 where a question has no answer; crop: train on so many frames at random places. Returns (M, S) int of `test`. The
    same arguments give the same answers on one machine.
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(front, nn.Module):
            head = Classifier(front, len(train[0]), classes, frame_rate)
        else:
            head = Classifier(CodeVectors(front), front[0].shape[1], classes, frame_rate)

        def losses() -> Iterator[Tensor]:
            for rows in draws(len(train), min(BATCH, len(train)), rng):
                parts = [_cropped(train[row], crop, rng) for row in rows]
                asked = torch.from_numpy(answers[rows])
                logits = head(*padded(parts))
                yield sum(_cross_entropy(each, asked[:, s]) for s, each in enumerate(logits)) / len(logits)

        optimise(head, losses(), steps, progress=progress)
        head.eval()
        with torch.no_grad():
            logits = [head(*padded(test[start : start + BATCH])) for start in range(0, len(test), BATCH)]
    return torch.cat([torch.stack([each.argmax(1) for each in part], 1) for part in logits]).numpy()


def classify_bags(
    sizes: Sequence[int], train: Sequence[Tensor], answers: np.ndarray, test: Sequence[Tensor], classes: Sequence[int],
    seed: int,
) -> np.ndarray:
    """Like `classify`, by how often each code occurs alone: square roots of the shares (N, sum of sizes), and a linear
    softmax with weight decay."""
    inputs, asked = _bags(train, sizes), torch.from_numpy(answers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(inputs.shape[1], sum(classes))
        nn.init.zeros_(head.weight)

        def losses() -> Iterator[Tensor]:
            while True:
                logits = head(inputs).split(list(classes), 1)
                yield sum(_cross_entropy(each, asked[:, s]) for s, each in enumerate(logits)) / len(logits)

        optimise(head, losses(), steps=150, rate=0.03, decay=0.3)
        with torch.no_grad():
            logits = head(_bags(test, sizes)).split(list(classes), 1)
    return torch.stack([each.argmax(1) for each in logits], 1).numpy()


def optimise(
    head: nn.Module, losses: Iterator[Tensor], steps: int, rate: float = 5e-3, decay: float = 0.05,
    progress: Progress | None = None,
) -> None:
    """AdamW with a one-cycle rate; `losses` gives the loss of the next batch."""
    optimiser = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=max(2, steps), pct_start=0.1)
    head.train()
    for step in range(steps):
        if progress is not None:
            progress(step, steps)
        optimiser.zero_grad()
        next(losses).backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        schedule.step()


def padded(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Codes (K, T) each to (B, K, longest T), and which frames are valid, (B, longest T) bool."""
    frames = max(part.shape[1] for part in parts)
    codes = torch.stack([F.pad(part, (0, frames - part.shape[1])) for part in parts])
    mask = torch.stack([torch.arange(frames) < part.shape[1] for part in parts])
    return codes, mask


def _bags(parts: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    counts = [torch.cat([torch.bincount(row, minlength=size) for row, size in zip(part, sizes)]) for part in parts]
    return torch.stack([count / part.shape[1] for count, part in zip(counts, parts)]).sqrt()


def _cross_entropy(logits: Tensor, answers: Tensor) -> Tensor:
    """0 where nothing in the batch has an answer."""
    return F.cross_entropy(logits, answers, ignore_index=-1, reduction="sum") / (answers >= 0).sum().clamp_min(1)


def _cropped(codes: Tensor, frames: int | None, rng: np.random.Generator) -> Tensor:
    if frames is None or codes.shape[1] <= frames:
        return codes
    start = int(rng.integers(codes.shape[1] - frames + 1))
    return codes[:, start : start + frames]


def draws(count: int, batch: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches of rows without end; every row once before any comes again."""
    rows = np.zeros(0, dtype=np.int64)
    while True:
        while len(rows) < batch:
            rows = np.concatenate([rows, rng.permutation(count)])
        yield rows[:batch]
        rows = rows[batch:]
