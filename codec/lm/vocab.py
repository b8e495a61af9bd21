"""Vocabularies: codes of K codebooks and text as ids of one language model.

    vocab = Vocabulary(model.codebook_sizes)                    # audio alone: ids from 0 on
    vocab = merge(tokenizer, model.codebook_sizes)              # or behind the text of a `transformers` tokenizer
    pattern = patterns.build("flatten", 8, special=vocab.pad)
    ids = pattern.apply(vocab.encode(tokens.codes))             # (B, 8 T)
    codes = vocab.decode(pattern.revert(ids))
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from codec.lm.patterns import Pattern

START, END, PAD = "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"
_TOKEN = re.compile(r"<\|a(\d+)_(\d+)\|>")


@dataclass(frozen=True)
class Vocabulary:
    """Ids of audio: code c of codebook k is `first` + the sizes of the codebooks before + c.

    Args:
        codebook_sizes: of each codebook.
        first: the id of code 0 of codebook 0; ids below it are text.
        start, end, pad: ids around audio and where there is none; the three behind the codes by default.

    Raises ValueError for ids that overlap.
    """

    codebook_sizes: tuple[int, ...]
    first: int = 0
    start: int | None = None
    end: int | None = None
    pad: int | None = None

    def __post_init__(self) -> None:
        sizes = tuple(int(size) for size in self.codebook_sizes)
        object.__setattr__(self, "codebook_sizes", sizes)
        if not sizes or min(sizes) < 1 or self.first < 0:
            raise ValueError(f"codebook_sizes={sizes} must be positive and first={self.first} not negative")
        for index, name in enumerate(("start", "end", "pad")):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.first + sum(sizes) + index)
        marks = {self.start, self.end, self.pad}
        if len(marks) < 3 or any(mark < 0 or self._codebook(mark) is not None for mark in marks):
            raise ValueError(f"start={self.start}, end={self.end} and pad={self.pad} must be three ids that are no codes, which take "
                             f"{self.first} to {self.first + sum(sizes) - 1}")

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The id of code 0 of each codebook."""
        return tuple(accumulate(self.codebook_sizes[:-1], initial=self.first))

    @property
    def size(self) -> int:
        """Rows that a model's embedding needs: all ids are below."""
        return max(self.first + sum(self.codebook_sizes) - 1, self.start, self.end, self.pad) + 1

    # Codes

    def encode(self, codes: Tensor) -> Tensor:
        """codes (B, k, T) of the first k codebooks to ids of the same shape, int64.

        Raises ValueError for another shape, and for codes outside their codebook with their place."""
        codes = self._shaped(codes, "codes")
        sizes = self._column(self.codebook_sizes, codes)
        self._refuse((codes < 0) | (codes >= sizes), codes, "code {} does not lie in 0 to {}".format)
        return codes + self._column(self.offsets, codes)

    def decode(self, ids: Tensor) -> Tensor:
        """ids (B, k, T), of codebook k in row k, to codes of the same shape.

        Raises ValueError for another shape, and for ids that are no codes of this codebook with their place."""
        ids = self._shaped(ids, "ids")
        codes = ids - self._column(self.offsets, ids)
        wrong = (codes < 0) | (codes >= self._column(self.codebook_sizes, ids))
        self._refuse(wrong, ids, lambda id, _: f"id {id} is {self.describe(id)}, no code of this codebook")
        return codes

    def describe(self, id: int) -> str:
        """An id in words."""
        if id in (self.start, self.end, self.pad):
            return {self.start: START, self.end: END, self.pad: PAD}[id]
        k = self._codebook(id)
        if k is not None:
            return f"code {id - self.offsets[k]} of codebook {k}"
        return "text" if 0 <= id < self.first else f"outside the vocabulary of {self.size}"

    # Text

    def text(self, ids: Tensor | Iterable[int]) -> str:
        """Ids (n,) of audio as text, `<|a0_17|>` for code 17 of codebook 0. Raises ValueError for ids of text."""
        words, marks = [], {self.start: START, self.end: END, self.pad: PAD}
        for place, id in enumerate(_list(ids)):
            k = self._codebook(id)
            if k is None and id not in marks:
                raise ValueError(f"place {place}: id {id} is {self.describe(id)}: let the tokenizer decode mixed sequences, or take "
                                 "the audio out with split")
            words.append(marks[id] if k is None else f"<|a{k}_{id - self.offsets[k]}|>")
        return "".join(words)

    def parse(self, text: str) -> Tensor:
        """The way back from `text`, to ids (n,) int64; spaces between them do not matter. Raises ValueError for anything
        else, and for codes that the codebooks have not."""
        ids, at, marks = [], 0, {START: self.start, END: self.end, PAD: self.pad}
        for match in re.finditer(r"<\|[^|]*\|>|\S", text):
            token = match.group()
            code = _TOKEN.fullmatch(token)
            if code and int(code[1]) < len(self.codebook_sizes) and int(code[2]) < self.codebook_sizes[int(code[1])]:
                ids.append(self.offsets[int(code[1])] + int(code[2]))
            elif token in marks:
                ids.append(marks[token])
            else:
                at = match.start()
                raise ValueError(f"character {at}: {text[at : at + 20]!r} is no audio of {len(self.codebook_sizes)} codebooks of "
                                 f"{self.codebook_sizes}")
        return torch.tensor(ids, dtype=torch.int64)

    def split(self, ids: Tensor | Iterable[int]) -> Iterator[tuple[str, Tensor]]:
        """A mixed sequence (n,) as ("text", ids) and ("audio", ids) in turn; start, end and pad are between them and in none."""
        kind, run = "", []
        for id in [*_list(ids), None]:
            code = id is not None and self._codebook(id) is not None
            now = "audio" if code else "" if id in (None, self.start, self.end, self.pad) else "text"
            if now != kind or id is None:
                if kind:
                    yield kind, torch.tensor(run, dtype=torch.int64)
                kind, run = now, []
            run.append(id)

    # Writing

    def allowed(self, pattern: Pattern) -> Callable[[int, Tensor], list[int]]:
        """What a model may write next, for `generate(prefix_allowed_tokens_fn=)` of `transformers`: behind the last `start`,
        codes of the codebook whose turn it is in a flat pattern, and `end` between frames; behind `end`, `pad`."""
        if not pattern.flat or max(pattern.stages) > 0:
            raise ValueError(f"allowed takes flatten, where a step says its codebook, not {pattern.name}")
        turn = {slot: k for k, slots in enumerate(pattern.slots) for slot in slots if slot >= 0}
        ranges = {slot: list(range(self.offsets[k], self.offsets[k] + self.codebook_sizes[k])) for slot, k in turn.items()}
        ranges[0] = [*ranges[0], self.end]

        def next_ids(_: int, ids: Tensor) -> list[int]:
            starts = (ids == self.start).nonzero()
            if not len(starts):
                raise ValueError(f"the prompt has no {START} (id {self.start}): put it in front of the audio")
            audio = ids[int(starts[-1]) + 1 :]
            return [self.pad] if (audio == self.end).any() else ranges[len(audio) % len(ranges)]

        return next_ids

    # Checks

    def _codebook(self, id: int) -> int | None:
        k = bisect_right(self.offsets, id) - 1
        return k if k >= 0 and id < self.offsets[k] + self.codebook_sizes[k] else None

    def _shaped(self, values: Tensor, name: str) -> Tensor:
        most = len(self.codebook_sizes)
        if values.dim() != 3 or not 1 <= values.shape[1] <= most or values.is_floating_point() or values.dtype == torch.bool:
            raise ValueError(f"{name} are {values.dtype} {tuple(values.shape)}: they must be integers (B, k, T), k from 1 to {most}")
        return values.long()

    def _column(self, numbers: tuple[int, ...], like: Tensor) -> Tensor:
        return torch.tensor(numbers[: like.shape[1]], device=like.device)[:, None]

    def _refuse(self, wrong: Tensor, values: Tensor, say: Callable[[int, int], str]) -> None:
        if wrong.any():
            row, k, frame = wrong.nonzero()[0].tolist()
            what = say(int(values[row, k, frame]), self.codebook_sizes[k] - 1)
            raise ValueError(f"row {row}, codebook {k}, frame {frame}: {what}")


def merge(tokenizer: Any, codebook_sizes: Sequence[int]) -> Vocabulary:
    """Add audio to a tokenizer of `transformers`: `<|a0_0|>` and so on for every code of every codebook, and three marks.

    The tokenizer then reads and writes audio in the midst of text, and keeps it in save_pretrained and from_pretrained, after
    which `of` gives the same vocabulary. The language model's embedding must grow: model.resize_token_embeddings(vocab.size).
    Raises ValueError for a tokenizer that has audio already.
    """
    from tokenizers import AddedToken

    known = tokenizer.get_vocab()
    if "<|a0_0|>" in known:
        raise ValueError("this tokenizer has audio already: take codec.lm.vocab.of(tokenizer)")
    names = [f"<|a{k}_{code}|>" for k, size in enumerate(codebook_sizes) for code in range(size)]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=True) for name in (START, END, PAD)], special_tokens=True)
    return of(tokenizer)


def of(tokenizer: Any) -> Vocabulary:
    """The vocabulary of a tokenizer that `merge` has been given, in this process or before it was saved.

    Raises ValueError where there is no audio in it, or not all of it.
    """
    known = tokenizer.get_vocab()
    found = {}
    for name, id in known.items():
        match = _TOKEN.fullmatch(name)
        if match:
            found[int(match[1]), int(match[2])] = id
    if not found or not {START, END, PAD} <= known.keys():
        raise ValueError("this tokenizer has no audio in it: add it with codec.lm.vocab.merge(tokenizer, codebook_sizes)")
    sizes = [0] * (max(k for k, _ in found) + 1)
    for k, code in found:
        sizes[k] = max(sizes[k], code + 1)
    first = found.get((0, 0), 0)
    in_order = [(k, code) for k, size in enumerate(sizes) for code in range(size)]
    if found != {name: first + place for place, name in enumerate(in_order)}:
        raise ValueError(f"the {len(found)} audio tokens of this tokenizer do not follow each other: merge audio into a fresh one")
    return Vocabulary(tuple(sizes), first, known[START], known[END], known[PAD])


def runs(codes: Tensor) -> tuple[Tensor, Tensor]:
    """codes (..., T) without repetitions of a frame, (..., R), and how often each comes in a row, (R,) int64."""
    if codes.shape[-1] == 0:
        return codes, torch.zeros(0, dtype=torch.int64, device=codes.device)
    kept, counts = torch.unique_consecutive(codes, return_counts=True, dim=-1)
    return kept, counts


def expand(codes: Tensor, counts: Tensor) -> Tensor:
    """The way back from `runs`: (..., R) and (R,) to (..., T). Raises ValueError for counts that are not of the frames."""
    if counts.shape != codes.shape[-1:] or (counts < 0).any():
        raise ValueError(f"counts have shape {tuple(counts.shape)}: they must be {codes.shape[-1]} numbers of 0 or more")
    return codes.repeat_interleave(counts, -1)


def _list(ids: Tensor | Iterable[int]) -> list[int]:
    if isinstance(ids, Tensor) and ids.dim() != 1:
        raise ValueError(f"ids have shape {tuple(ids.shape)}: they must be (n,), one sequence")
    return [int(id) for id in ids]
