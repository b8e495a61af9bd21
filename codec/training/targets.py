"""Crops together with what teachers make of them: features that `codec features` has stored, row by row. Or with the letters
of what is said in them, from the file of `codec transcribe`.

crops = SpeechCrops(folder, 16_000, 32_000, frame_samples=320)
both = TargetedCrops(crops, [stored], [shift], frame_rate=50.0)
both.batch(step=7)        # Batch(wav (B, 1, T), targets [(features (B, T', D), valid (B, T'))])
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from codec.semantic.letters import Letters
from codec.training.data import DataError, SpeechCrops


class Batch(NamedTuple):
    """wav (B, 1, T), and for each target its features (B, T', D), or letters (B, L) int64 from 1, followed by zeros; and which
    frames are valid (B, T')."""

    wav: Tensor
    targets: tuple[tuple[Tensor, Tensor], ...] = ()


class Stored(Protocol):
    """Rows of features by content of a file, see `codec.semantic.features.FeatureStore`."""

    frame_rate: float
    dim: int

    def __contains__(self, key: str) -> bool: ...

    def read(self, key: str, start: int, frames: int) -> tuple[Tensor, Tensor]: ...


class TargetedCrops:
    """Batches of `crops`, which must start on frame borders, with the rows of each store that belong to them.

    shifts: frames of the codec by which each target lags. Files without features, or texts, are counted in a warning; their
    crops do not train that target. Raises DataError where no file of the corpus has any.
    """

    def __init__(
        self, crops: SpeechCrops, stores: Sequence[Stored | Letters], shifts: Sequence[int], frame_rate: float
    ) -> None:
        self.crops, self.stores, self.shifts, self.frame_rate = crops, list(stores), list(shifts), frame_rate
        self.keys = crops.corpus.content_keys()
        for number, store in enumerate(self.stores, 1):
            missing, spells = sum(key not in store for key in self.keys), isinstance(store, Letters)
            what = "text to spell" if spells else "features of this teacher"
            if missing == len(self.keys):
                remedy = store.lacks() if spells else "run codec features over the same files first"
                raise DataError(f"target {number}: no file of the training data has {what}: {remedy}")
            if missing:
                warnings.warn(f"target {number}: {missing} of {len(self.keys)} files of the training data have no {what} and "
                              "do not train it", stacklevel=2)

    def batch(self, step: int, rank: int = 0) -> Batch:
        placed = [self.crops.placed(step, rank, item) for item in range(self.crops.batch_size)]
        wav = torch.from_numpy(np.stack([crop for crop, _, _ in placed])).unsqueeze(1)
        frames = self.crops.crop_samples // self.crops.frame_samples
        targets = []
        for store, shift in zip(self.stores, self.shifts):
            rows = [self._rows(store, self.keys[file], start // self.crops.frame_samples - shift, frames)
                    for _, file, start in placed]
            features = pad_sequence([row for row, _ in rows], batch_first=True)
            targets.append((features, torch.stack([valid for _, valid in rows])))
        return Batch(wav, tuple(targets))

    def _rows(self, store: Stored | Letters, key: str, start: int, frames: int) -> tuple[Tensor, Tensor]:
        """Features (frames, D) and valid (frames,) of the codec's frames from `start` (may be negative) on: the mean of the
        teacher's valid rows that lie in a frame, or the one row in which it lies. Of texts the letters (n,)."""
        if isinstance(store, Letters):
            return store.crop(key, start, frames)
        if key not in store:
            return torch.zeros(frames, store.dim), torch.zeros(frames, dtype=torch.bool)
        ratio = store.frame_rate / self.frame_rate
        numbers = np.arange(start, start + frames)
        lows = np.floor(numbers * ratio + 1e-6).astype(int)
        highs = np.maximum(np.ceil((numbers + 1) * ratio - 1e-6).astype(int), lows + 1)
        first = max(0, int(lows[0]))
        features, valid = store.read(key, first, int(highs[-1]) - first)  # (n, D), (n,)
        span = int((highs - lows).max())
        index = torch.from_numpy(lows[:, None] + np.arange(span))  # (frames, span)
        there = (index >= first) & (index < torch.from_numpy(highs)[:, None])
        index = (index - first).clamp(0, len(valid) - 1)
        there &= valid[index]
        total = (features[index] * there[..., None]).sum(1)
        counted = there.sum(1)
        return total / counted.clamp_min(1)[:, None], counted > 0
