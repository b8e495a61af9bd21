"""Training crops: which samples a step sees follows from (seed, step, rank, item) alone, so the position in the data is
the step.

crops = SpeechCrops("corpus/", sample_rate=16_000, crop_samples=16_000, batch_size=16)
wav = crops.batch(step=1200)                                  # (16, 1, 16000), the same on every call and machine
for wav in step_loader(crops, start=1200, stop=5000): ...     # resumed: nothing else to restore
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from codec.atomic import Output
from codec.training.effects import Effects
from codec.training.listing import DataError, Entry, decode, list_audio, place

SILENT_CROP = 10 ** (-55 / 20)  # RMS over the file's peak: below it a crop is drawn again
SILENT_FILE = 10 ** (-50 / 20)  # peak: below it a file is left out
TRIES = 100
AHEAD = 32  # files that are decoded before they are written
CACHE_VERSION = 1


class SpeechCrops:
    """Random crops of a corpus, as a pure function of (seed, step, rank, item).

    source        a folder (any depth), or a manifest: see `list_audio`.
    cache         folder of the decoded corpus; empty for the user's cache folder.
    group_power   groups are drawn in proportion to hours ** group_power: 1 as they are, 0 all alike; files in
                  proportion to length times weight.
    gain_db       range of the file's peak after augmentation, at most 0 so that nothing clips.
    effects       probabilities of rooms, noise and so on: see `codec.training.effects`.
    split         which entries of a manifest to keep, where it says.
    frame_samples crops start at multiples of it: of a frame, where targets are stored by frames.
    augment       False: crops as they are in the file, for looking at data.

    Files shorter than a crop are followed by zeros; crops near silence are drawn again. Raises DataError where no sound
    is found.
    """

    def __init__(
        self,
        source: str | Path,
        sample_rate: int,
        crop_samples: int,
        batch_size: int = 16,
        seed: int = 0,
        cache: str | Path = "",
        group_power: float = 0.5,
        gain_db: tuple[float, float] = (-20.0, 0.0),
        effects: Mapping[str, float] | None = None,
        split: str = "train",
        augment: bool = True,
        frame_samples: int = 1,
    ) -> None:
        if crop_samples < 1 or batch_size < 1:
            raise DataError(
                f"crops of {crop_samples} samples in batches of {batch_size} cannot be drawn; both must be at least 1"
            )
        if not gain_db[0] <= gain_db[1] <= 0:
            raise DataError(f"gain_db {tuple(gain_db)} must rise to at most 0, or crops would clip")
        self.crop_samples, self.batch_size, self.seed = crop_samples, batch_size, seed
        self.gain_db, self.augment, self.frame_samples = tuple(gain_db), augment, frame_samples
        try:
            self.effects = Effects(effects or {}, sample_rate)
        except ValueError as error:
            raise DataError(f"data.effects: {error}") from None
        self.corpus = DecodedCorpus(list_audio(source, split), sample_rate, cache)
        files = self.corpus.files
        audible = [i for i, file in enumerate(files) if file["peak"] >= SILENT_FILE and file["weight"] > 0]
        if not audible:
            raise DataError(
                f"all {len(files)} files of {source} are silent (peaks below -50 dBFS); check the recordings"
            )
        self._groups: list[tuple[np.ndarray, np.ndarray]] = []  # file numbers, cumulative probabilities
        seconds = []
        for name in sorted({files[i]["group"] for i in audible}):
            members = [i for i in audible if files[i]["group"] == name]
            mass = np.array([files[i]["length"] * files[i]["weight"] for i in members], dtype=np.float64)
            self._groups.append((np.array(members), np.cumsum(mass) / mass.sum()))
            seconds.append(sum(files[i]["length"] for i in members) / sample_rate)
        share = np.array(seconds) ** group_power
        self._group_edges = np.cumsum(share) / share.sum()
        self.seconds = float(sum(seconds))

    def batch(self, step: int, rank: int = 0) -> Tensor:
        """(batch_size, 1, crop_samples) float32 in [-1, 1]."""
        crops = np.stack([self.item(step, rank, item) for item in range(self.batch_size)])
        return torch.from_numpy(crops).unsqueeze(1)

    def item(self, step: int, rank: int, item: int) -> np.ndarray:
        """One crop (crop_samples,) float32."""
        return self.placed(step, rank, item)[0]

    def placed(self, step: int, rank: int, item: int) -> tuple[np.ndarray, int, int]:
        """One crop (crop_samples,) float32, the number of its file, and its first sample there. Only `random()` is drawn, the
        plainest use of the generator, so other versions of numpy agree."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, step, rank, item])))
        crop, number, start = self._drawn(rng)
        if not self.augment:
            return crop, number, start
        crop = self.effects(crop, lambda: self._drawn(rng)[0], rng.random)
        return self._levelled(crop, self.corpus.files[number]["peak"], rng), number, start

    def _drawn(self, rng: np.random.Generator) -> tuple[np.ndarray, int, int]:
        for _ in range(TRIES):
            members, edges = self._groups[_pick(self._group_edges, rng.random())]
            number = int(members[_pick(edges, rng.random())])
            file = self.corpus.files[number]
            room = max(0, file["length"] - self.crop_samples) // self.frame_samples
            start = int(rng.random() * (room + 1)) * self.frame_samples
            crop = self.corpus.read(file, start, self.crop_samples)
            if np.sqrt(np.mean(np.square(crop))) >= SILENT_CROP * file["peak"]:
                return crop, number, start
        raise DataError(
            f"{TRIES} crops of {self.crop_samples} samples in a row were silent; "
            "remove silent recordings or use longer crops"
        )

    def _levelled(self, crop: np.ndarray, peak: float, rng: np.random.Generator) -> np.ndarray:
        low, high = self.gain_db
        gain = 10 ** ((low + (high - low) * rng.random()) / 20) / max(peak, float(np.abs(crop).max()))
        crop = crop * np.float32(gain if rng.random() < 0.5 else -gain)
        return np.clip(crop, -1.0, 1.0)  # rounding only


class StepDataset(Dataset):
    """``dataset[step]`` is the batch of that step, (B, 1, T)."""

    def __init__(self, crops: SpeechCrops, rank: int = 0) -> None:
        self.crops, self.rank = crops, rank

    def __getitem__(self, step: int) -> Tensor:
        return self.crops.batch(step, self.rank)


class _Positions(Sampler[int]):
    """The steps start to stop - 1. Without a length: Lightning would subtract the steps before a resume from it."""

    def __init__(self, start: int, stop: int) -> None:
        self.steps = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps)


def step_loader(crops: SpeechCrops, start: int, stop: int, rank: int = 0, workers: int = 0, pin_memory: bool = False) -> DataLoader:
    """Batches of the steps start to stop - 1, in order, with any number of workers. Leaves torch's global random state alone."""
    return DataLoader(StepDataset(crops, rank), batch_size=None, sampler=_Positions(start, stop), num_workers=workers, pin_memory=pin_memory,
                      generator=torch.Generator())


class DecodedCorpus:
    """All files of a corpus decoded once, one after the other in one int16 array on disk that is mapped, not read.

    The cache is a pair NAME.npy and NAME.json under ``cache``, with NAME made of every path, size, time of change,
    group and weight and the rate: a changed corpus is decoded anew. Files that cannot be decoded are left out with one
    warning; DataError if none can.

    files    for each file: path, group, weight, start and length (samples), peak (in [0, 1]).
    skipped  (path, reason) of the files left out.
    """

    def __init__(self, entries: list[Entry], sample_rate: int, cache: str | Path = "") -> None:
        self.sample_rate = sample_rate
        folder = Path(cache).expanduser() if cache else _user_cache()
        name = folder / _fingerprint(entries, sample_rate)
        self.samples_path = name.with_suffix(".npy")
        index = _load_index(name)
        if index is None:
            folder.mkdir(parents=True, exist_ok=True)
            index = _build(entries, sample_rate, name)
        self.files: list[dict[str, Any]] = index["files"]
        self.skipped: list[tuple[str, str]] = [tuple(pair) for pair in index["skipped"]]
        self._samples: np.ndarray | None = None
        if self.skipped:
            path, reason = self.skipped[0]
            warnings.warn(
                f"{len(self.skipped)} of {len(entries)} training files were left out, the first being {path}: {reason}",
                stacklevel=3,
            )

    def read(self, file: dict[str, Any], offset: int, length: int) -> np.ndarray:
        """(length,) float32 from ``offset`` of one of ``files``, zeros after its end."""
        if self._samples is None:
            self._samples = np.load(self.samples_path, mmap_mode="r")
        stop = min(file["length"], offset + length)
        crop = np.zeros(length, dtype=np.float32)
        np.multiply(
            self._samples[file["start"] + offset : file["start"] + stop],
            np.float32(1 / 32767),
            out=crop[: stop - offset],
        )
        return crop

    def content_keys(self) -> list[str]:
        """The SHA-256 of the samples of each file at 16 kHz, by which features and transcripts are stored. Found once."""
        kept = self.samples_path.with_suffix(".keys.json")
        try:
            return json.loads(kept.read_text())
        except (OSError, ValueError):
            pass
        if self.sample_rate == 16_000:
            samples = np.load(self.samples_path, mmap_mode="r")
            parts = (samples[file["start"] : file["start"] + file["length"]] for file in self.files)
        else:
            parts = (decode(file["path"], 16_000) for file in self.files)
        keys = [hashlib.sha256(part.tobytes()).hexdigest() for part in parts]
        _write(kept, json.dumps(keys))
        return keys

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_samples": None}  # a worker process maps the file itself


def _build(entries: list[Entry], sample_rate: int, name: Path) -> dict[str, Any]:
    """Decode everything to NAME.npy, then write NAME.json, which makes the pair valid."""
    files, skipped, start = [], [], 0
    output = Output(name.with_suffix(".npy"))
    try:
        header = _write_header(output, 0)
        with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
            for entry, wav in _decoded(pool, entries, sample_rate):
                if isinstance(wav, DataError):
                    skipped.append((entry.path, str(wav)))
                    continue
                output.write(wav.tobytes())
                peak = int(np.abs(wav.astype(np.int32)).max()) / 32767
                files.append(asdict(entry) | {"start": start, "length": int(wav.size), "peak": peak})
                start += int(wav.size)
        if not files:
            raise DataError(
                f"none of {len(entries)} training files can be read, the first being {skipped[0][0]}: {skipped[0][1]}"
            )
        output.seek(0)
        if _write_header(output, start) != header:
            raise DataError("numpy wrote headers of two sizes; report this with your numpy version")
        output.commit()
    except BaseException:
        output.discard()
        raise
    index = {"sample_rate": sample_rate, "samples": start, "files": files, "skipped": skipped}
    _write(name.with_suffix(".json"), json.dumps(index))
    return index


def _write(path: Path, text: str) -> None:
    output = Output(path)
    try:
        output.write(text.encode())
        output.commit()
    except BaseException:
        output.discard()
        raise


def _decoded(pool: ThreadPoolExecutor, entries: list[Entry], sample_rate: int) -> Iterator[tuple[Entry, np.ndarray | DataError]]:
    """Entries with their samples, in order. Few are decoded ahead: where the disk is slower, the corpus would fill the memory."""
    waiting: deque = deque()
    for entry in entries:
        waiting.append((entry, pool.submit(_attempt, entry, sample_rate)))
        if len(waiting) > AHEAD:
            first, wav = waiting.popleft()
            yield first, wav.result()
    for entry, wav in waiting:
        yield entry, wav.result()


def _attempt(entry: Entry, sample_rate: int) -> np.ndarray | DataError:
    try:
        return decode(entry.path, sample_rate)
    except DataError as error:
        return error


def _write_header(output: Output, length: int) -> int:
    """The .npy header of an int16 array; numpy leaves room in it, so that it has one size for every length."""
    np.lib.format.write_array_header_1_0(output, {"descr": "<i2", "fortran_order": False, "shape": (length,)})
    return output.tell()


def _load_index(name: Path) -> dict[str, Any] | None:
    """The index of a finished cache, or None where there is none or its samples are not all there."""
    try:
        index = json.loads(name.with_suffix(".json").read_text())
        samples = np.load(name.with_suffix(".npy"), mmap_mode="r")
        return index if samples.shape == (index["samples"],) and samples.dtype == np.int16 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fingerprint(entries: list[Entry], sample_rate: int) -> str:
    digest = hashlib.sha256(f"{CACHE_VERSION} {sample_rate}".encode())
    for entry in entries:
        try:
            stat = os.stat(place(entry.path).file)
            state: tuple[int, int] | None = (stat.st_size, stat.st_mtime_ns)
        except OSError:
            state = None
        digest.update(json.dumps([os.path.abspath(entry.path), entry.group, entry.weight, state]).encode())
    return digest.hexdigest()[:24]


def _pick(edges: np.ndarray, uniform: float) -> int:
    """The first place whose cumulative probability exceeds ``uniform`` in [0, 1)."""
    return min(int(np.searchsorted(edges, uniform, side="right")), len(edges) - 1)


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neural-codec-toolkit" / "audio"
