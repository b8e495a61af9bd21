"""Byte-pair encoding of audio ids: frequent sequences become one id (acoustic BPE, Shen et al. 2024, arXiv 2310.14580)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codec.atomic import Output

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FIRST, MOST = 0xF0000, 0x1FFFC  # characters of private use stand for ids; both planes, but for what is no character
HINT = "BPE needs tokenizers: pip install \"neural-codec-toolkit[lm]\""


class AcousticBPE:
    """Sequences of ids to shorter ones and back. Ids that go in stay what they are, new ones follow.

        bpe = AcousticBPE.train(sequences, num_ids=1024, size=4096)
        short = bpe.encode(ids)            # (n,) to (m,), m <= n
        ids = bpe.decode(short)
        bpe.lengths                        # (4096,): ids that each stands for
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.size = tokenizer.get_vocab_size()
        pieces = [[_id(character) for character in tokenizer.id_to_token(id)] for id in range(self.size)]
        self.num_ids = sum(len(piece) == 1 for piece in pieces)
        if [piece for piece in pieces if len(piece) == 1] != [[id] for id in range(self.num_ids)]:
            raise ValueError("this is no BPE of audio ids: make one with AcousticBPE.train")
        self._pieces = pieces
        self.lengths = torch.tensor([len(piece) for piece in pieces])

    @classmethod
    def train(cls, sequences: Iterable[Tensor], num_ids: int, size: int) -> AcousticBPE:
        """Learn from sequences (n,) of ids below `num_ids`, until there are `size` ids or nothing comes twice.

        Raises ValueError for ids outside and sizes that make no sense.
        """
        tokenizers = _tokenizers()
        if not 1 <= num_ids <= MOST or size < num_ids:
            raise ValueError(f"num_ids={num_ids} must lie in 1 to {MOST}, and size={size} be no less")
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=size, min_frequency=2, show_progress=False, initial_alphabet=[_character(id) for id in range(num_ids)],
        )
        tokenizer.train_from_iterator((_text(ids, num_ids) for ids in sequences), trainer)
        return cls(tokenizer)

    def encode(self, ids: Tensor) -> Tensor:
        """ids (n,) to (m,) int64. Raises ValueError for ids outside."""
        found = self.tokenizer.encode(_text(ids, self.num_ids)).ids
        return torch.tensor(found, dtype=torch.int64, device=ids.device)

    def decode(self, ids: Tensor) -> Tensor:
        """The way back, without loss. Raises ValueError for ids outside."""
        _check(ids, self.size)
        found = [one for id in ids.tolist() for one in self._pieces[id]]
        return torch.tensor(found, dtype=torch.int64, device=ids.device)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON of `tokenizers`."""
        file = Output(Path(path))
        try:
            file.write(self.tokenizer.to_str().encode())
            file.commit()
        finally:
            file.discard()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AcousticBPE:
        """Read what `save` has written. Raises ValueError for anything else."""
        tokenizers = _tokenizers()
        try:
            tokenizer = tokenizers.Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises nothing more special
            raise ValueError(f"{path} is no BPE that can be read ({error})") from None
        return cls(tokenizer)


def _tokenizers():
    try:
        import tokenizers
    except ImportError:
        raise ValueError(HINT) from None
    return tokenizers


def _check(ids: Tensor, size: int) -> None:
    if ids.dim() != 1 or ids.is_floating_point():
        raise ValueError(f"ids are {ids.dtype} {tuple(ids.shape)}: they must be integers (n,), one sequence")
    wrong = (ids < 0) | (ids >= size)
    if wrong.any():
        place = int(wrong.nonzero()[0])
        raise ValueError(f"place {place}: id {int(ids[place])} does not lie in 0 to {size - 1}")


def _text(ids: Tensor, num_ids: int) -> str:
    _check(ids, num_ids)
    return "".join(map(_character, ids.tolist()))


def _character(id: int) -> str:
    return chr(FIRST + id + (2 if id >= 0xFFFE else 0))  # two in between are no characters


def _id(character: str) -> int:
    number = ord(character) - FIRST
    return number - 2 if number > 0xFFFE else number
