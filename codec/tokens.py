"""Tokens: the codes of some audio with all that is needed to decode, slice, truncate, count and save them."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

import torch
from torch import Tensor

from codec.correction import Correction

if TYPE_CHECKING:
    from codec.entropy import Prior

MAX_CODEBOOKS = 256
MAX_CODEBOOK_SIZE = 65536
MAX_STRIDE = 1024


@dataclass(frozen=True)
class TokenSpec:
    """Which model made the tokens.

    Args:
        name: of the model.
        sample_rate: of the model in Hz.
        frame_size: samples a frame, at the model's rate.
        codebook_sizes: of all codebooks that the model has, 2 to 65536 entries each.
        fingerprint: of encoder and codebooks, 16 hexadecimal digits. Tokens decode only with these.
        decoder_fingerprint: of the decoder at the time of encoding; a better decoder may take its place.
        counts: the numbers of codebooks whose first ones decode on their own; every number when left out.
        strides: frames for which each codebook holds one code, above 1 for codebooks of a lower frame rate; 1 when left
            out.
    """

    name: str
    sample_rate: int
    frame_size: int
    codebook_sizes: tuple[int, ...]
    fingerprint: str
    decoder_fingerprint: str
    counts: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        sizes = tuple(self.codebook_sizes)
        object.__setattr__(self, "codebook_sizes", sizes)
        object.__setattr__(self, "counts", tuple(self.counts) or tuple(range(1, len(sizes) + 1)))
        object.__setattr__(self, "strides", tuple(self.strides) or (1,) * len(sizes))
        if not 1 <= len(self.name) <= 200 or not self.name.isprintable():
            raise ValueError(f"model name {self.name[:200]!r} must be 1 to 200 printable characters")
        if not 1 <= self.sample_rate < 2**31 or not 1 <= self.frame_size < 2**31:
            raise ValueError(f"sample_rate={self.sample_rate} and frame_size={self.frame_size} must be positive")
        if not 1 <= len(self.codebook_sizes) <= MAX_CODEBOOKS:
            raise ValueError(f"{len(self.codebook_sizes)} codebooks: a model has 1 to {MAX_CODEBOOKS}")
        if not all(2 <= size <= MAX_CODEBOOK_SIZE for size in self.codebook_sizes):
            raise ValueError(f"codebook sizes must lie in 2 to {MAX_CODEBOOK_SIZE}, got {self.codebook_sizes}")
        if list(self.counts) != sorted({*self.counts, len(self.codebook_sizes)}) or self.counts[0] < 1:
            raise ValueError(f"counts={self.counts} must rise from 1 or more to {len(self.codebook_sizes)}, all codebooks")
        longest = max(self.strides)
        if len(self.strides) != len(sizes) or not all(1 <= s <= MAX_STRIDE and longest % s == 0 for s in self.strides):
            raise ValueError(f"strides={self.strides} must be one divisor of the longest (at most {MAX_STRIDE}) for each codebook")
        for value in (self.fingerprint, self.decoder_fingerprint):
            if not re.fullmatch("[0-9a-f]{16}", value):
                raise ValueError(f"fingerprint {value[:40]!r} must be 16 hexadecimal digits")

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.frame_size

    @property
    def frame_multiple(self) -> int:
        """Frames after which all codebooks start a new code together."""
        return max(self.strides)  # the others divide it

    def bits_per_frame(self, num_codebooks: int | None = None) -> float:
        """Nominal bits of a frame of the first codebooks, on average where a code is held for several frames."""
        pairs = zip(self.codebook_sizes[:num_codebooks], self.strides)
        return sum(math.log2(size) / stride for size, stride in pairs)


def frames_for(num_samples: int, sample_rate: int, spec: TokenSpec) -> int:
    """Frames for `num_samples` of audio at `sample_rate` Hz: ceil(T / frame_size), T counted at the model's rate. Where
    codes are held for several frames, whole groups of them (`spec.frame_multiple`)."""
    at_model_rate = -(-num_samples * spec.sample_rate // sample_rate)
    group = spec.frame_size * spec.frame_multiple
    return -(-at_model_rate // group) * spec.frame_multiple


def samples_for(num_frames: int, sample_rate: int, spec: TokenSpec) -> int:
    """The most samples at `sample_rate` Hz that fit into `num_frames` frames."""
    return num_frames * spec.frame_size * sample_rate // spec.sample_rate


@dataclass(frozen=True, eq=False, repr=False)
class Tokens:
    """Codes and what they mean.

    Args:
        codes: (B, K, T) int64. An item of several channels takes `channels` rows, one after the other:
            B = items * channels. K is the number of codebooks kept, counted from the first.
        spec: the model that made them.
        sample_rate: of the audio that went in, in Hz; decoding gives it back.
        num_samples: one number for each item, at `sample_rate`.
        channels: of the audio.
        lengths: (B,) int64 valid frames of each row; follows from `num_samples` when left out. The rest is padding.
        lost: frame ranges (start, stop) that a salvaged file no longer holds; codes there repeat the frame before, and
            decoding mutes them. Only tokens of one item can have them.
        correction: of each row, what was done to its level and spectrum before it was encoded; decoding takes it off.

    Raises ValueError when these do not fit each other.
    """

    codes: Tensor
    spec: TokenSpec
    sample_rate: int
    num_samples: tuple[int, ...]
    channels: int = 1
    lengths: Tensor | None = None
    lost: tuple[tuple[int, int], ...] = ()
    correction: Correction = Correction()

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_samples", tuple(int(n) for n in self.num_samples))
        object.__setattr__(self, "lost", tuple((int(a), int(b)) for a, b in self.lost))
        self._check_codes()
        self.correction.check(self.codes.shape[0], self.spec.sample_rate)
        if self.sample_rate < 1:
            raise ValueError(f"sample_rate={self.sample_rate} must be positive, in Hz")
        rows, items = self.codes.shape[0], len(self.num_samples)
        if self.channels < 1 or items < 1 or rows != items * self.channels:
            raise ValueError(
                f"codes have {rows} rows, but num_samples names {items} items of {self.channels} channels: "
                "give each channel of each item one row"
            )
        if min(self.num_samples) < 0:
            raise ValueError(f"num_samples={self.num_samples} must not be negative")
        frames = [frames_for(n, self.sample_rate, self.spec) for n in self.num_samples for _ in range(self.channels)]
        if self.lengths is None:
            object.__setattr__(self, "lengths", torch.tensor(frames, device=self.codes.device))
        if self.lengths.dtype != torch.int64 or self.lengths.shape != (rows,) or self.lengths.tolist() != frames:
            raise ValueError(
                f"lengths must be int64 of shape ({rows},) and hold the frames of num_samples, {frames[:8]}; "
                f"got {self.lengths.tolist()[:8] if self.lengths.numel() else []}. Leave it out to have it computed"
            )
        if max(frames) > self.num_frames:
            raise ValueError(f"num_samples needs {max(frames)} frames, but codes hold {self.num_frames}")
        self._check_lost()

    def _check_codes(self) -> None:
        codes, sizes = self.codes, self.spec.codebook_sizes
        if not isinstance(codes, Tensor) or codes.dtype != torch.int64:
            got = codes.dtype if isinstance(codes, Tensor) else type(codes).__name__
            raise ValueError(f"codes must be an int64 tensor, got {got}: use torch.as_tensor(codes, dtype=torch.int64)")
        if codes.dim() != 3:
            raise ValueError(f"codes have shape {tuple(codes.shape)}: they must be (rows, codebooks, frames)")
        if not 1 <= codes.shape[1] <= len(sizes):
            raise ValueError(f"codes have {codes.shape[1]} codebooks; model {self.spec.name!r} has 1 to {len(sizes)}")
        if codes.shape[1] not in self.spec.counts:
            raise ValueError(f"codes have {codes.shape[1]} codebooks, but those of model {self.spec.name!r} decode together: "
                             f"{', '.join(map(str, self.spec.counts))}")
        if codes.numel() == 0:
            return
        low, high = codes.amin(dim=(0, 2)).tolist(), codes.amax(dim=(0, 2)).tolist()
        for k, (least, most, size) in enumerate(zip(low, high, sizes)):
            if least < 0 or most >= size:
                raise ValueError(
                    f"codebook {k} holds codes {least} to {most}; they must lie in 0 to {size - 1}: "
                    "take special tokens and offsets out first"
                )

    def _check_lost(self) -> None:
        if self.lost and self.batch_size != 1:
            raise ValueError("lost spans belong to tokens of one item")
        edges = [edge for span in self.lost for edge in span]
        ascending = edges == sorted(edges) and all(a < b for a, b in self.lost)
        if not ascending or edges and not 0 <= edges[0] <= edges[-1] <= self.num_frames:
            raise ValueError(f"lost={self.lost} must be ascending frame ranges within the {self.num_frames} frames")

    # What a pipeline reads

    @property
    def batch_size(self) -> int:
        """Items; codes have batch_size * channels rows."""
        return len(self.num_samples)

    @property
    def num_codebooks(self) -> int:
        return self.codes.shape[1]

    @property
    def num_frames(self) -> int:
        """Frames of the longest item, padding included."""
        return self.codes.shape[2]

    @property
    def bitrate(self) -> float:
        """Nominal bit/s of one item with all its channels: what the codebook sizes imply, before any entropy coding."""
        return self.spec.bits_per_frame(self.num_codebooks) * self.spec.frame_rate * self.channels

    def __repr__(self) -> str:
        seconds = ", ".join(f"{n / self.sample_rate:.2f} s" for n in self.num_samples[:4])
        more = f" and {self.batch_size - 4} more" if self.batch_size > 4 else ""
        lost = f", {sum(b - a for a, b in self.lost)} frames lost" if self.lost else ""
        return (
            f"Tokens({seconds}{more} at {self.sample_rate} Hz, {self.channels} channel{'s' * (self.channels > 1)}; "
            f"{self.num_codebooks} of {len(self.spec.codebook_sizes)} codebooks x {self.num_frames} frames, "
            f"{self.bitrate / 1000:g} kbit/s; model {self.spec.name!r}{lost})"
        )

    # Cutting

    def truncate(self, num_codebooks: int) -> Tokens:
        """The first `num_codebooks` codebooks: fewer bits, a coarser sound."""
        if not 1 <= num_codebooks <= self.num_codebooks:
            raise ValueError(
                f"truncate({num_codebooks}): these tokens hold {self.num_codebooks} codebooks; "
                f"keep 1 to {self.num_codebooks} of them, or encode again for more"
            )
        if num_codebooks not in self.spec.counts:
            kept = ", ".join(str(k) for k in self.spec.counts if k <= self.num_codebooks)
            raise ValueError(f"truncate({num_codebooks}): the codebooks of model {self.spec.name!r} only decode together: keep {kept}")
        return replace(self, codes=self.codes[:, :num_codebooks])

    def __getitem__(self, frames: slice) -> Tokens:
        """Frames a to b as `tokens[a:b]`; `num_samples` follows, so that the cut decodes to the audio there."""
        if not isinstance(frames, slice):
            raise TypeError("tokens[...] takes a slice of frames: tokens[5:6] is one frame, tokens.item(5) one item")
        if frames.step not in (None, 1):
            raise ValueError(f"tokens[a:b:{frames.step}]: frames must follow each other; leave the step out")
        start, stop, _ = frames.indices(self.num_frames)
        stop = max(start, stop)
        if start % self.spec.frame_multiple or stop % self.spec.frame_multiple:
            raise ValueError(f"tokens[{start}:{stop}]: these codes are held for up to {self.spec.frame_multiple} frames: "
                             f"start and stop at multiples of {self.spec.frame_multiple}")
        lengths = (self.lengths.clamp(max=stop) - start).clamp(min=0)
        skipped = samples_for(start, self.sample_rate, self.spec)
        samples = tuple(
            min(samples_for(length, self.sample_rate, self.spec), max(0, n - skipped))
            for n, length in zip(self.num_samples, lengths[:: self.channels].tolist())
        )
        lost = [(max(a, start) - start, min(b, stop) - start) for a, b in self.lost]
        return replace(self, codes=self.codes[..., start:stop], num_samples=samples, lengths=lengths,
                       lost=tuple((a, b) for a, b in lost if a < b))

    def item(self, index: int) -> Tokens:
        """One item of the batch, cut to its own length."""
        if not -self.batch_size <= index < self.batch_size:
            raise IndexError(f"item({index}): these tokens hold {self.batch_size} items")
        index %= self.batch_size
        rows = slice(index * self.channels, (index + 1) * self.channels)
        frames = int(self.lengths[rows.start])
        lost = tuple((a, min(b, frames)) for a, b in self.lost if a < frames)
        return replace(
            self, codes=self.codes[rows, :, :frames], num_samples=(self.num_samples[index],),
            lengths=self.lengths[rows], lost=lost, correction=self.correction.of(rows),
        )

    def to(self, device: torch.device | str) -> Tokens:
        return replace(self, codes=self.codes.to(device), lengths=self.lengths.to(device))

    # Files; container.py imports this module, so it is imported when it is used

    def save(self, path: str | os.PathLike[str] | BinaryIO, prior: Prior | None = None) -> None:
        """Write a .tok file, entropy-coded with a prior of the model (`codec.entropy.prior_of`). Raises ValueError for a batch,
        WriteError when it cannot be written."""
        from codec.container import TokWriter

        if self.batch_size != 1:
            raise ValueError(f"a .tok file holds one item, these are {self.batch_size}: save each tokens.item(i)")
        if self.lost:
            raise ValueError(
                "these tokens have lost spans, which a .tok file cannot mark: decode them, or save parts, tokens[a:b]"
            )
        one = self.item(0)
        with TokWriter(path, self.spec, self.num_codebooks, self.sample_rate, self.channels, prior, correction=self.correction) as writer:
            writer.write(one.codes)
            writer.finish(one.num_samples[0])

    @classmethod
    def load(cls, path: str | os.PathLike[str] | BinaryIO, salvage: bool = False, prior: Prior | None = None) -> Tokens:
        """Read a .tok file. Raises TokError for anything but a whole one; `salvage` reads what is left of it. Entropy-coded ones
        of a model that is not in the box need its `prior`."""
        from codec.container import TokReader

        with TokReader(path, salvage=salvage, prior=prior) as reader:
            parts = [torch.from_numpy(codes) for _, codes in reader.blocks()]
            empty = torch.zeros(reader.channels, reader.num_codebooks, 0, dtype=torch.int64)
            return cls(
                codes=torch.cat([empty, *parts], dim=2), spec=reader.spec, sample_rate=reader.sample_rate,
                num_samples=(reader.num_samples,), channels=reader.channels, lost=reader.lost, correction=reader.header.correction,
            )
