"""Corpora of tokens for training: crops by number, or batches in a seeded order, shared by ranks and workers.

data = TokenDataset("tokens/", crop=500)                          # map style: data[i]["codes"] is (K, 500)
loader = DataLoader(data.batches(32, seed=1), batch_size=None, num_workers=2)
for batch in loader: batch["codes"], batch["lengths"]             # (32, K, 500), (32,)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from codec.corpus.plan import MANIFEST, SHARDS, CorpusError, read_plan
from codec.tokens import Tokens, TokenSpec


class TokenDataset(Dataset):
    """The samples of one or several corpora of one model, in the npy format.

    A sample is `crop` frames of a row (a channel of a recording); rows that are shorter are padded. A row of T frames has
    ceil(T / crop) samples one after the other, the last one shorter; with `random` it has T // crop, at least one, which
    start at another place in each epoch. Without `crop` a sample is a whole row.

    Args:
        folders: of `codec tokenize`, finished.
        crop: frames of a sample.
        num_codebooks: the first ones of those that are there; all by default.
        random: see above. seed, epoch: what the places follow from.
        pad: the code behind the end of short rows.
        keep: which rows to take, by what `row` tells of them.

    spec: of the model; its fingerprint says which. Raises CorpusError where folders hold no whole corpus, or of several models.
    """

    def __init__(
        self,
        folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        crop: int | None = None,
        num_codebooks: int | None = None,
        random: bool = False,
        seed: int = 0,
        epoch: int = 0,
        pad: int = 0,
        keep: Callable[[dict[str, Any]], bool] | None = None,
    ):
        folders = [Path(folder) for folder in ([folders] if isinstance(folders, (str, os.PathLike)) else folders)]
        if not folders:
            raise CorpusError("TokenDataset needs a folder that codec tokenize has made")
        plans = [read_plan(folder) for folder in folders]
        for folder, plan in zip(folders, plans):
            if plan.spec.fingerprint != plans[0].spec.fingerprint:
                raise CorpusError(f"{folder} holds tokens of model {plan.spec.name!r} {plan.spec.fingerprint}, but "
                                  f"{folders[0]} of {plans[0].spec.name!r} {plans[0].spec.fingerprint}: read each on its own")
            if plan.settings.format != "npy":
                raise CorpusError(f"{folder} is in the format {plan.settings.format}: read it with its own library, or "
                                  "tokenize with --format npy")
        self.spec: TokenSpec = plans[0].spec
        stored = min(plan.settings.num_codebooks for plan in plans)
        self.num_codebooks = stored if num_codebooks is None else num_codebooks
        self._multiple = self.spec.frame_multiple
        if not 1 <= self.num_codebooks <= stored:
            raise CorpusError(f"num_codebooks={num_codebooks}: the corpus holds {stored}")
        if crop is not None and (crop < 1 or crop % self._multiple):
            raise CorpusError(f"crop={crop} must be a positive multiple of {self._multiple} frames")
        self.crop, self.random, self.seed, self.epoch, self.pad = crop, random, seed, epoch, pad
        self._stems = [folder / SHARDS / name for folder in folders for name in _shards(folder)]
        starts = [np.load(f"{stem}.starts.npy") for stem in self._stems]
        counts = [len(rows) - 1 for rows in starts]
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)  # row of each shard
        self._shard = np.repeat(np.arange(len(starts), dtype=np.int32), counts)  # of each row
        self._start = np.concatenate([np.zeros(0, np.int64), *(rows[:-1] for rows in starts)])  # in its shard
        self._frames = np.concatenate([np.zeros(0, np.int64), *(np.diff(rows) for rows in starts)])
        self._kept = np.arange(len(self._frames)) if keep is None else np.array(
            [number for number, row in enumerate(self._rows()) if keep(row)], dtype=np.int64)
        self._ends = np.cumsum(self._samples(self._frames[self._kept]))  # samples up to the end of each kept row
        self._codes: dict[int, np.ndarray] = {}  # of each shard that was looked at
        self._lines: dict[int, np.ndarray] = {}  # where its rows start
        self._places: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Samples."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def num_rows(self) -> int:
        return len(self._kept)

    @property
    def num_frames(self) -> int:
        """Of all rows; times `num_codebooks` they are the tokens."""
        return int(self._frames[self._kept].sum())

    def set_epoch(self, epoch: int) -> None:
        """Where `random` samples start from now on."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        """codes (K, crop) int64, padded; length, how many of the frames are the row's; row and start, where they are."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        batch = self.batch([index % len(self)])
        return {"codes": batch["codes"][0], **{key: int(batch[name][0]) for key, name in _SINGULAR.items()}}

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        """Samples together: codes (B, K, crop) int64, of the longest row without `crop`; lengths, rows and starts (B,) int64."""
        rows, starts, lengths = self._place(np.asarray(indices, dtype=np.int64))
        longest = self.crop or int(lengths.max(initial=0))
        codes = np.full((len(rows), self.num_codebooks, longest), self.pad, dtype=np.int64)
        for out, shard, start, length in zip(
            codes, self._shard[rows].tolist(), (self._start[rows] + starts).tolist(), lengths.tolist()
        ):
            out[:, :length] = self._mapped(shard)[start : start + length, : self.num_codebooks].T
        return {"codes": torch.from_numpy(codes), "lengths": torch.from_numpy(lengths), "rows": torch.from_numpy(rows),
                "starts": torch.from_numpy(starts)}

    def batches(
        self, batch_size: int, shuffle: bool = True, seed: int = 0, epoch: int = 0, start: int = 0, rank: int | None = None,
        world: int | None = None, even: bool = True,
    ) -> TokenBatches:
        """An iterable of batches; see TokenBatches."""
        return TokenBatches(self, batch_size, shuffle, seed, epoch, start, rank, world, even)

    def row(self, number: int) -> dict[str, Any]:
        """What is known of a row, by the number that a sample gives: path, seconds, text where there is one ..."""
        shard = int(self._shard[number])
        with open(f"{self._stems[shard]}.jsonl", "rb") as file:
            if shard not in self._lines:
                self._lines[shard] = np.cumsum([0, *map(len, file)])
            file.seek(self._lines[shard][number - self._first[shard]])
            return json.loads(file.readline())

    def tokens(self, number: int) -> Tokens:
        """A row whole, as a model decodes it, with all its codebooks."""
        about, start = self.row(number), int(self._start[number])
        codes = self._mapped(int(self._shard[number]))[start : start + int(self._frames[number])]
        codes = torch.from_numpy(codes.T.astype(np.int64))[None]
        return Tokens(codes, self.spec, about["sample_rate"], (about["num_samples"],))

    def _rows(self) -> Iterator[dict[str, Any]]:
        for stem in self._stems:
            with open(f"{stem}.jsonl", encoding="utf-8") as file:
                yield from map(json.loads, file)

    def _samples(self, frames: np.ndarray) -> np.ndarray:
        """How many samples rows of so many frames have."""
        if self.crop is None:
            return np.ones_like(frames)
        return np.maximum(1, frames // self.crop if self.random else -(-frames // self.crop))

    def _place(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of samples, where they start in them, and how long they are."""
        kept = np.searchsorted(self._ends, indices, side="right")
        rows = self._kept[kept]
        frames = self._frames[rows]
        if self.crop is None:
            return rows, np.zeros_like(frames), frames
        number = indices - (self._ends[kept] - self._samples(frames))  # of the sample in its row
        starts = number * self.crop
        if self.random:
            room = np.maximum(0, frames - self._samples(frames) * self.crop) // self._multiple
            starts += (self._uniform()[rows] * (room + 1)).astype(np.int64) * self._multiple
        return rows, starts, np.minimum(self.crop, frames - starts)

    def _uniform(self) -> np.ndarray:
        """One number in [0, 1) for each row, of this epoch."""
        if self._places is None or self._places[0] != self.epoch:
            self._places = self.epoch, _generator(self.seed, self.epoch, 1).random(len(self._frames))
        return self._places[1]

    def _mapped(self, shard: int) -> np.ndarray:
        """Codes (frames, K) of a shard, read where they are looked at."""
        codes = self._codes.get(shard)
        if codes is None:
            mapped = np.load(f"{self._stems[shard]}.codes.npy", mmap_mode="r")
            codes = self._codes[shard] = mapped.view(np.ndarray)  # plain: slices of a memmap are slow to make
        return codes

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_codes": {}}  # a worker process maps the files itself


_SINGULAR = {"length": "lengths", "row": "rows", "start": "starts"}


class TokenBatches(IterableDataset):
    """Batches of a TokenDataset for one rank, for `DataLoader(..., batch_size=None)` with any number of workers.

    The samples, in an order that follows from (seed, epoch), are cut into batches, and batch number n is of rank n % world.
    A DataLoader gives the batches of a rank in the same order with any number of workers, so the position is their number:
    `start=` skips so many.

    rank, world: of torch.distributed where it runs, else 0 of 1.
    even: as many batches, all of them full, for each rank, which is what training needs; what is left over comes in other
        epochs. Without it every sample comes exactly once.
    """

    def __init__(
        self, data: TokenDataset, batch_size: int, shuffle: bool, seed: int, epoch: int, start: int, rank: int | None,
        world: int | None, even: bool,
    ):
        running = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = (torch.distributed.get_rank() if running else 0) if rank is None else rank
        world = (torch.distributed.get_world_size() if running else 1) if world is None else world
        if batch_size < 1 or start < 0 or not 0 <= rank < world:
            raise CorpusError(f"batch_size={batch_size} must be 1 or more, start={start} 0 or more, and rank={rank} below "
                              f"world={world}")
        self.data, self.batch_size, self.shuffle, self.seed, self.epoch = data, batch_size, shuffle, seed, epoch
        self.start, self.rank, self.world, self.even = start, rank, world, even

    def set_epoch(self, epoch: int) -> None:
        """Go on with another epoch, from its start."""
        self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        """Batches of this rank from `start` on."""
        return max(0, len(range(self.rank, self._batches(), self.world)) - self.start)

    def _batches(self) -> int:
        """Of all ranks."""
        if not self.even:
            return -(-len(self.data) // self.batch_size)
        return len(self.data) // self.batch_size // self.world * self.world

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        self.data.set_epoch(self.epoch)
        order = np.arange(len(self.data))
        if self.shuffle:
            order = np.argsort(_generator(self.seed, self.epoch, 0).random(len(order)), kind="stable")
        own = range(self.rank, self._batches(), self.world)[self.start :]
        for number in own[worker::workers]:
            first = number * self.batch_size
            yield self.data.batch(order[first : first + self.batch_size])


def _generator(*seed: int) -> np.random.Generator:
    """Only `random()` is drawn of it, the plainest use, so that other versions of numpy agree."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))


def _shards(folder: Path) -> list[str]:
    try:
        shards = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["shards"]
    except FileNotFoundError:
        raise CorpusError(f"{folder} is not finished: run the same codec tokenize again") from None
    except (OSError, ValueError, KeyError) as error:
        raise CorpusError(f"{folder / MANIFEST} cannot be read ({error})") from None
    return [f"{shard['shard']:05d}" for shard in shards]
