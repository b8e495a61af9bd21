"""A pattern's way back while a model still writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from codec.lm.patterns import Pattern


class Online:
    """Steps of a sequence in any portions, to the frames that they complete: together those of `pattern.revert`.

        online = pattern.online()
        with model.stream() as stream:
            for ids in model_that_writes:            # (B, K), or (B,) for one id a step
                play(stream.decode(online.push(ids[..., None])))
            play(stream.flush_decoder())

    Rows go in step. A frame that is not complete when the model stops is never returned.
    """

    def __init__(self, pattern: Pattern, batch_size: int, frames: int | None):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: at least one sequence is written")
        staged = max(pattern.stages) > 0
        if staged and frames is None:
            raise ValueError(f"{pattern.name} writes all coarse codes first: give online(frames=...), how many frames there will be")
        self.pattern, self.batch_size, self.total = pattern, batch_size, frames
        self._places = pattern.places(frames) if staged else None
        rows = 1 if pattern.flat else pattern.num_codebooks
        self._kept = torch.zeros(batch_size, rows, 0, dtype=torch.int64)  # from the first step that is still needed on
        self._first = 0  # the step it starts with
        self.frames = 0  # frames that have been returned

    def push(self, sequence: Tensor) -> Tensor:
        """The next steps (B, K, n), or (B, n) where the pattern is flat, to codes (B, K, m), m >= 0.

        Raises ValueError for another shape, and for ids that are no codes with their place; nothing then has changed.
        """
        sequence = self.pattern.rows(sequence)
        if len(sequence) != self.batch_size:
            raise ValueError(f"the steps are of {len(sequence)} rows: {self.batch_size} are written here")
        kept = torch.cat([self._kept.to(sequence.device), sequence], 2)
        if self._places is None:
            count = self.pattern.frames(kept.shape[2])  # a pattern looks the same from any frame on
            if self.total is not None:
                count = min(count, self.total - self.frames)
            places = self.pattern.places(count)
            done = count // self.pattern.period * (self.pattern.steps(2 * self.pattern.period) - self.pattern.steps(self.pattern.period))
        else:
            there = (self._places < kept.shape[2]).all(0).long().cumprod(0)  # (frames,)
            count, done = int(there.sum()) - self.frames, 0
            places = self._places[:, self.frames : self.frames + count]
        codes = self.pattern.read(kept, places, range(self.batch_size), self._first)
        self._kept, self._first, self.frames = kept[..., done:].clone(), self._first + done, self.frames + count
        return codes
