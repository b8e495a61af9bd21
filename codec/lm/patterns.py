"""Patterns: in which order a language model reads and writes the codes of K codebooks (Copet et al. 2023, MusicGen, section 2.2).

    pattern = patterns.build("delay", num_codebooks=8, codebook_sizes=1024)
    sequence = pattern.apply(tokens.codes)     # (B, K, T) -> (B, K, T + 7), 1024 where there is no code
    codes = pattern.revert(sequence)           # the way back, without loss

A pattern only moves ids. What makes them ids of one vocabulary is in `codec.lm.vocab`; a start of a sequence is the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.lm.online import Online

NAMES = ("parallel", "delay", "flatten", "partially_flattened", "coarse_first")


def build(
    name: str, num_codebooks: int, *, codebook_sizes: int | Sequence[int] | None = None, special: int | None = None,
    delays: Sequence[int] | None = None, groups: Sequence[int] | None = None, coarse: int = 1, flat: bool = False,
    strides: Sequence[int] | None = None,
) -> Pattern:
    """A pattern by name. T frames of codebooks A, B, C, whose codes are A0 A1 ..., and _ for no code:

        parallel              (B, K, T)          A0 A1 A2 / B0 B1 B2 / C0 C1 C2
        delay                 (B, K, T + 2)      A0 A1 A2 _ _ / _ B0 B1 B2 _ / _ _ C0 C1 C2       MusicGen; Moshi by `delays`
        flatten               (B, 3 T)           A0 B0 C0 A1 B1 C1 A2 B2 C2                       one stream of ids
        partially_flattened   (B, K, 2 T)        A0 _ A1 _ A2 _ / _ B0 _ B1 _ B2 / _ C0 _ C1 _ C2    for groups (0, 1, 1)
        coarse_first          (B, K, 2 T)        A0 A1 A2 _ _ _ / _ _ _ B0 B1 B2 / _ _ _ C0 C1 C2    VALL-E
          with flat=True      (B, 3 T)           A0 A1 A2 B0 C0 B1 C1 B2 C2                       AudioLM

    Args:
        name: one of these.
        num_codebooks: K.
        codebook_sizes: of each, or one for all; ids are checked against them. Without, only that they are not negative.
        special: the id where there is no code; by default the largest codebook's size, or -1 where sizes are not known.
        delays: frames by which each codebook waits: delay (0, 1, ... K - 1 by default), partially_flattened, coarse_first.
        groups: partially_flattened: the step within a frame of each codebook, from 0 on.
        coarse: coarse_first: the codebooks that come first.
        flat: coarse_first: one id a step.
        strides: flatten: frames for which each codebook holds one code (`model.quantizer.strides`), which is then written
            once: codes of SNAC come in time's order, coarse ones first (A0 B0 C0 C1 B2 C2 C3 for strides 4, 2, 1).

    Raises ValueError for a name that is not there and settings that do not fit it.
    """
    if name not in NAMES:
        raise ValueError(f"no pattern is named {name!r}: there is {', '.join(NAMES)}")
    k = num_codebooks
    if k < 1:
        raise ValueError(f"num_codebooks={k}: at least 1 is needed")
    for setting, value, names in (
        ("delays", delays is not None, ("delay", "partially_flattened", "coarse_first")),
        ("groups", groups is not None, ("partially_flattened",)), ("coarse", coarse != 1, ("coarse_first",)),
        ("flat", flat, ("coarse_first",)),
    ):
        if value and name not in names:
            raise ValueError(f"{name} takes no {setting}: that is for {', '.join(names)}")
    sizes = None if codebook_sizes is None else _each(codebook_sizes, k, "codebook_sizes", 1)
    if special is None:
        special = -1 if sizes is None else max(sizes)
    if sizes is not None and 0 <= special < max(sizes):
        raise ValueError(f"special={special} is a code of the codebooks, which have up to {max(sizes)}: take {max(sizes)} or more")
    strides = _each(1 if strides is None else strides, k, "strides", 1)
    if name != "flatten" and max(strides) > 1:
        raise ValueError(f"{name} takes one code of each codebook a frame, not strides {strides}: take flatten")
    if any(max(strides) % stride for stride in strides):
        raise ValueError(f"strides={strides}: each must divide the longest")
    delays = _each(range(k) if delays is None and name == "delay" else delays or 0, k, "delays", 0)
    if name == "coarse_first" and not 1 <= coarse <= k:
        raise ValueError(f"coarse={coarse}: of {k} codebooks, 1 to {k} come first")
    stages = tuple(int(name == "coarse_first" and index >= coarse) for index in range(k))
    if name == "partially_flattened":
        if groups is None:
            raise ValueError("partially_flattened needs groups, the step within a frame of each codebook, e.g. (0, 1, 1, 1)")
        groups = _each(groups, k, "groups", 0)
        if set(groups) != set(range(max(groups) + 1)):
            raise ValueError(f"groups={groups}: steps are counted from 0 on, and none is empty")
        slots = tuple((group,) for group in groups)
    elif name == "flatten":
        slots = _in_order(strides)
    elif flat:
        slots = tuple((index - coarse * stages[index],) for index in range(k))
    else:
        slots = ((0,),) * k
    return Pattern(name, k, sizes, special, stages, slots, delays, strides, flat or name == "flatten")


@dataclass(frozen=True)
class Masks:
    """attention (B, S) bool: steps that are the row's and not padding, as `transformers` takes it.
    loss, of the sequence's shape, bool: where there is a code to predict."""

    attention: Tensor
    loss: Tensor


@dataclass(frozen=True)
class Pattern:
    """Where each code stands: that of codebook k in frame t at step

        start of stage[k] + (t // period + delays[k]) * (slots a period of this stage) + slots[k][t % period]

    in row k of the sequence, or in the only row where `flat`. Made by `build`.
    """

    name: str
    num_codebooks: int
    codebook_sizes: tuple[int, ...] | None
    special: int
    stages: tuple[int, ...]
    slots: tuple[tuple[int, ...], ...]  # -1 in frames that hold the code before
    delays: tuple[int, ...]
    strides: tuple[int, ...]
    flat: bool

    @property
    def period(self) -> int:
        """Frames that are written together: 1, but for codebooks of several frame rates."""
        return max(self.strides)

    def _stage(self, stage: int) -> tuple[int, int]:
        """Steps a period, and periods by which the last code lags."""
        members = [k for k in range(self.num_codebooks) if self.stages[k] == stage]
        return max(max(self.slots[k]) for k in members) + 1, max(self.delays[k] for k in members)

    def steps(self, frames: int) -> int:
        """Steps of a sequence of so many frames; none for none."""
        if frames % self.period:
            raise ValueError(f"{frames} frames: these codebooks are written in groups of {self.period}")
        stages = [self._stage(stage) for stage in range(max(self.stages) + 1)]
        return sum((frames // self.period + delay) * size for size, delay in stages) if frames else 0

    def frames(self, steps: int) -> int:
        """Frames that are complete after so many steps. Raises ValueError where codebooks come one after the other, unless it
        is the number of steps of some frames."""
        stages = [self._stage(stage) for stage in range(max(self.stages) + 1)]
        if len(stages) == 1:
            size = stages[0][0]
            last = max(delay * size + max(slots) for delay, slots in zip(self.delays, self.slots))  # code of the first frames
            return max(0, (steps - 1 - last) // size + 1) * self.period
        rest = steps - sum(size * delay for size, delay in stages)
        frames, rest = divmod(rest, sum(size for size, _ in stages))
        if steps and (rest or frames < 1):
            raise ValueError(f"no number of frames takes {steps} steps of {self.name}: where the second stage starts depends on "
                             "the frames, so give lengths=")
        return max(0, frames)

    def places(self, frames: int) -> Tensor:
        """(K, frames) int64: the step of each code, -1 where the code before it is held."""
        start, starts = 0, []
        for stage in range(max(self.stages) + 1):
            size, delay = self._stage(stage)
            starts.append((start, size))
            start += (frames // self.period + delay) * size
        place = torch.empty(self.num_codebooks, frames, dtype=torch.int64)
        time = torch.arange(frames)
        for k, row in enumerate(place):
            start, size = starts[self.stages[k]]
            slot = torch.tensor(self.slots[k])[time % self.period]
            row[:] = torch.where(slot < 0, -1, start + (time // self.period + self.delays[k]) * size + slot)
        return place

    def apply(self, codes: Tensor, lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        """codes (B, K, T) to a sequence (B, K, S), or (B, S) where `flat`, int64, `special` where there is no code.

        lengths (B,): valid frames of each row; all by default. A row's sequence is the one that it has alone, and `special`
        behind it.
        Raises ValueError for another shape, and for ids outside the codebooks with their place.
        """
        k = self.num_codebooks
        if codes.dim() != 3 or codes.shape[1] != k or codes.is_floating_point() or codes.dtype == torch.bool:
            raise ValueError(f"codes are {codes.dtype} {tuple(codes.shape)}: this pattern takes integers (B, {k}, T)")
        codes, (batch, _, frames) = codes.long(), codes.shape
        lengths = self._lengths(lengths, batch, frames)
        steps = max((self.steps(n) for n in lengths), default=0)
        rows = 1 if self.flat else k
        sequence = torch.full((batch, rows, steps), self.special, dtype=torch.int64, device=codes.device)
        for frames, members in _groups(lengths).items():
            if not frames:
                continue
            part, place = codes[members, :, :frames], self.places(frames).to(codes.device)
            self._check(part, "frame", torch.arange(frames).expand(k, -1), members)
            self._check_held(part, members)
            moved = sequence[members]
            for index in range(k):
                own = place[index] >= 0
                moved[:, 0 if self.flat else index, place[index, own]] = part[:, index, own]
            sequence[members] = moved
        return sequence[:, 0] if self.flat else sequence

    def revert(self, sequence: Tensor, lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        """A sequence (B, K, S), or (B, S) where `flat`, to codes (B, K, T) int64.

        lengths (B,): frames of each row; by default all that are complete after S steps (`frames`). One that is cut short in
        the middle, as by a model that stops, is left out. Behind a row's frames are zeros. Places of the sequence that hold no
        code are not looked at.
        Raises ValueError for another shape, a sequence too short for `lengths`, and for ids that are no codes with their place.
        """
        sequence = self.rows(sequence)
        batch, _, steps = sequence.shape
        lengths = [self.frames(steps)] * batch if lengths is None else self._lengths(lengths, batch, None)
        codes = sequence.new_zeros(batch, self.num_codebooks, max(lengths, default=0))
        for frames, members in _groups(lengths).items():
            places = self.places(frames)
            if frames and places.max() >= steps:
                raise ValueError(f"{frames} frames take {self.steps(frames)} steps of {self.name}, but the sequence has {steps}")
            codes[members, :, :frames] = self.read(sequence[members], places, members)
        return codes

    def mask(self, lengths: int | Tensor | Sequence[int]) -> Masks:
        """Masks for rows of so many frames (one row for a number), in the steps of the longest."""
        lengths = self._lengths([lengths] if isinstance(lengths, int) else lengths, None, None)
        codes = torch.zeros(len(lengths), self.num_codebooks, max(lengths, default=0), dtype=torch.int64)
        special = -1  # even where the pattern's own is a number that codes have
        loss = Pattern.apply(_replaced(self, special), codes, lengths) != special
        steps = torch.tensor([self.steps(n) for n in lengths], dtype=torch.int64)
        return Masks(torch.arange(loss.shape[-1]) < steps[:, None], loss)

    def online(self, batch_size: int = 1, frames: int | None = None) -> Online:
        """Reverts step by step: `push` what a model emits, and get the frames that are complete. frames: how many there will
        be, which coarse_first must know."""
        return Online(self, batch_size, frames)

    # For this module and `online`

    def rows(self, sequence: Tensor) -> Tensor:
        """The sequence as (B, K or 1, S) int64. Raises ValueError for another shape and what are no ids."""
        shape = "(B, S)" if self.flat else f"(B, {self.num_codebooks}, S)"
        fits = sequence.dim() == 2 if self.flat else sequence.dim() == 3 and sequence.shape[1] == self.num_codebooks
        if not fits or sequence.is_floating_point() or sequence.dtype == torch.bool:
            raise ValueError(f"the sequence is {sequence.dtype} {tuple(sequence.shape)}: {self.name} takes integers {shape}")
        return sequence[:, None].long() if self.flat else sequence.long()

    def read(self, sequence: Tensor, places: Tensor, members: Sequence[int], first: int = 0) -> Tensor:
        """The codes (B, K, n) at places (K, n) of a sequence (B, K or 1, S); for errors, the rows' numbers and that of the
        sequence's first step."""
        held = torch.arange(places.shape[1]) // torch.tensor(self.strides)[:, None] * torch.tensor(self.strides)[:, None]
        places = places.gather(1, held).to(sequence.device)  # (K, n): where the code that is held stands
        if self.flat:
            codes = sequence[:, 0, places.reshape(-1)].reshape(len(sequence), *places.shape)
        else:
            codes = sequence.gather(2, places.expand(len(sequence), -1, -1))
        self._check(codes, "step", places + first, members)
        return codes

    def _check(self, codes: Tensor, unit: str, places: Tensor, members: Sequence[int]) -> None:
        """Raise ValueError unless codes (B, K, n) are of the codebooks."""
        wrong = (codes < 0) | (codes == self.special)
        if self.codebook_sizes is not None:
            wrong |= codes >= torch.tensor(self.codebook_sizes, device=codes.device)[:, None]
        if not wrong.any():
            return
        row, k, at = wrong.nonzero()[0].tolist()
        code = int(codes[row, k, at])
        most = f"0 to {self.codebook_sizes[k] - 1}" if self.codebook_sizes else "0 on"
        what = "the special id" if code == self.special else "no code"
        raise ValueError(f"row {members[row]}, {unit} {int(places[k, at])}, codebook {k}: {code} is {what}: codes there go from "
                         f"{most}; take special tokens and offsets out first")

    def _check_held(self, codes: Tensor, members: Sequence[int]) -> None:
        for k, stride in enumerate(self.strides):
            parts = codes[:, k].unflatten(1, (-1, stride))
            moving = (parts != parts[..., :1]).flatten(1)
            if moving.any():
                row, frame = moving.nonzero()[0].tolist()
                raise ValueError(f"row {members[row]}, frame {frame}, codebook {k}: the code changes within the {stride} frames "
                                 "for which it is held; are these strides the model's?")

    def _lengths(self, lengths: Tensor | Sequence[int] | None, batch: int | None, most: int | None) -> list[int]:
        lengths = [most] * batch if lengths is None else torch.as_tensor(lengths).tolist()
        whole = all(type(n) is int and n >= 0 and (most is None or n <= most) for n in lengths)
        if not whole or (batch is not None and len(lengths) != batch):
            within = "of 0 or more" if most is None else f"from 0 to {most}"
            raise ValueError(f"lengths={lengths[:8]} must be {'' if batch is None else f'{batch} '}numbers of frames, {within}")
        return lengths


def _replaced(pattern: Pattern, special: int) -> Pattern:
    return Pattern(**{**pattern.__dict__, "special": special, "codebook_sizes": None})


def _each(values: int | Sequence[int], count: int, name: str, least: int) -> tuple[int, ...]:
    values = (values,) * count if isinstance(values, int) else tuple(int(value) for value in values)
    if len(values) != count or min(values) < least:
        raise ValueError(f"{name}={values} must be {count} numbers of at least {least}, one for each codebook")
    return values


def _in_order(strides: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The slot of every codebook in every frame of a period: frame by frame, each with the codes that start there."""
    slots, count = [[-1] * max(strides) for _ in strides], 0
    for frame in range(max(strides)):
        for row, stride in zip(slots, strides):
            if frame % stride == 0:
                row[frame], count = count, count + 1
    return tuple(map(tuple, slots))


def _groups(lengths: Sequence[int]) -> dict[int, list[int]]:
    """The rows of each length."""
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(length, []).append(row)
    return groups
