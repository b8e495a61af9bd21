"""Teachers' features on disk, so that a teacher runs once over a corpus.

    store = FeatureStore.of(teacher, "features/")                  # or FeatureStore.open("features/", "hubert-base")
    report = compute(paths, teacher, store)                        # skips what is there
    features, valid = store.read(content_key(samples), start=100, frames=50)    # (50, D) float32, (50,) bool

A store is a folder FOLDER/NAME-FINGERPRINT of safetensors shards beside a store.json that says what is in them. A
recording is known by its content, so files may be moved and renamed. Rows are float16, or codes of a multi-codebook
quantizer (see `quantizers.fit_mvq`) that was fitted to the first features, with `bytes_per_frame` bytes each.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import secrets
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from codec.atomic import put
from codec.semantic.store_files import (
    INFO, QUANTIZER, VERSION, StoreError, folder_name, load_quantizer, put_info, put_quantizer, read_header, read_info,
    shards,
)

if TYPE_CHECKING:
    from codec.semantic.teachers import Teacher
    from quantizers.mvq import MultiCodebookVQ

SHARD_BYTES = 64_000_000
OPEN_SHARDS = 64  # kept open in a process
FIT_ROWS = 30_000  # of features that a quantizer is fitted to
VALID = ".valid"  # behind a key: which of its rows are valid
LARGEST = float(np.finfo(np.float16).max)


class Place(NamedTuple):
    """Where a recording's rows are: shard None for those that are not written yet."""

    shard: Path | None
    frames: int


class Pending(NamedTuple):
    rows: np.ndarray  # (F, D) float16, or codes (F, K) uint8
    valid: np.ndarray | None  # (F,) bool; None: all


class FeatureStore:
    """Rows of one teacher's features, by content of the recording.

    Args:
        folder: of all stores; this one's is made in it.
        name: of the teacher, in words.
        frame_rate: rows a second.
        dim: width of a row.
        fingerprint: what the features depend on: letters and digits.
        bytes_per_frame: 1, 2, 4, 8, 16 or 32 to compress; None for float16 rows.
        shard_bytes: about the size of a file. A killed process loses what it had not written of one.

    Any number of processes may read, also those forked or spawned from one that reads. Two that write do not harm
    each other, but see only what was there when they started.

    Raises StoreError for a folder that holds something else.
    """

    def __init__(
        self, folder: str | os.PathLike[str], name: str, frame_rate: float, dim: int, fingerprint: str,
        bytes_per_frame: int | None = None, shard_bytes: int = SHARD_BYTES,
    ) -> None:
        if not frame_rate > 0 or dim < 1:
            raise StoreError(f"features at {frame_rate} frames/s, {dim} wide, cannot be: both must be positive")
        if not re.fullmatch(r"[0-9A-Za-z]+", fingerprint):
            raise StoreError(f"the fingerprint {fingerprint!r} must be letters and digits, as it names a folder")
        self.name, self.frame_rate, self.dim, self.fingerprint = name, float(frame_rate), dim, fingerprint
        self.bytes_per_frame, self.shard_bytes = bytes_per_frame, shard_bytes
        self.path = Path(folder).expanduser() / folder_name(name, fingerprint, bytes_per_frame)
        self.quantizer: MultiCodebookVQ | None = None
        self._pending: dict[str, Pending] = {}
        self._pending_bytes = 0
        self._error = self._power = 0.0  # squared, of pending rows: what compression loses, and all there is to lose
        self._handles: OrderedDict[Path, Any] = OrderedDict()
        self._handles_of = os.getpid()
        self._open_existing()

    @classmethod
    def of(cls, teacher: Teacher, folder: str | os.PathLike[str], bytes_per_frame: int | None = None) -> FeatureStore:
        """The store of a teacher's features in `folder`."""
        return cls(folder, teacher.name, teacher.frame_rate, teacher.dim, teacher.fingerprint, bytes_per_frame)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], teacher: str = "") -> FeatureStore:
        """A store that is there: the one in `folder` whose name starts with `teacher`. Raises StoreError where there
        is none, or more than one."""
        folder = Path(folder).expanduser()
        there = sorted(path.parent for path in folder.glob(f"*/{INFO}"))
        found = [path for path in there if path.name == teacher]
        found = found or [path for path in there if path.name.startswith(teacher)]
        if len(found) != 1:
            names = ", ".join(path.name for path in found or there) or "none: make one by `codec features`"
            raise StoreError(f"{folder}: {len(found) or 'no'} stores are named {teacher}...: there is {names}")
        info = read_info(found[0])
        return cls(folder, info["name"], info["frame_rate"], info["dim"], info["fingerprint"], info["bytes_per_frame"])

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def keys(self) -> list[str]:
        return list(self._places)

    def frames(self, key: str) -> int:
        """Rows of a recording, 0 where it is not there."""
        return self._places[key].frames if key in self._places else 0

    @property
    def rows(self) -> int:
        return sum(place.frames for place in self._places.values())

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.path.glob("*") if path.suffix in (".safetensors", ".json"))

    @property
    def relative_error(self) -> float:
        """Squared error of all compressed rows over their variance; nan where nothing was compressed."""
        power = self._written_power + self._power
        return (self._written_error + self._error) / power if power else math.nan

    # Reading

    def read(self, key: str, start: int, frames: int) -> tuple[Tensor, Tensor]:
        """features (frames, D) float32 from row `start` on, and which of them are valid (frames,) bool.

        Rows before the first and behind the last one, and those of recordings that are not there, are zeros and not
        valid. Only the rows asked for are read.
        """
        features, valid = torch.zeros(frames, self.dim), torch.zeros(frames, dtype=torch.bool)
        first, last = max(0, start), min(start + frames, self.frames(key))
        if first < last:
            here = slice(first - start, last - start)
            rows, known = self._slice(key, first, last)
            valid[here] = True if known is None else torch.from_numpy(known.astype(bool))
            features[here] = self._decoded(rows)
            features[~valid] = 0.0
        return features, valid

    def _slice(self, key: str, first: int, last: int) -> tuple[np.ndarray, np.ndarray | None]:
        shard = self._places[key].shard
        if shard is None:
            rows, valid = self._pending[key]
            return rows[first:last], None if valid is None else valid[first:last]
        file, masked = self._handle(shard)
        return file.get_slice(key)[first:last], file.get_slice(key + VALID)[first:last] if key in masked else None

    def _decoded(self, rows: np.ndarray) -> Tensor:
        if rows.dtype != np.uint8:
            return torch.from_numpy(rows.astype(np.float32))
        return self.quantizer.decode_bytes(rows)

    def _handle(self, shard: Path) -> tuple[Any, set[str]]:
        """An open shard, and the keys in it that have rows which are not valid."""
        from safetensors import safe_open

        if self._handles_of != os.getpid():  # a forked worker opens its own
            self._handles, self._handles_of = OrderedDict(), os.getpid()
        if shard not in self._handles:
            if len(self._handles) >= OPEN_SHARDS:
                self._handles.popitem(last=False)
            file = safe_open(shard, framework="np")
            self._handles[shard] = file, {name[: -len(VALID)] for name in file.keys() if name.endswith(VALID)}
        self._handles.move_to_end(shard)
        return self._handles[shard]

    def __getstate__(self) -> dict[str, Any]:
        """For a process that reads: it opens shards itself."""
        self.flush()
        return self.__dict__ | {"_handles": OrderedDict()}

    # Writing

    def add(self, key: str, features: Tensor | np.ndarray, valid: Tensor | np.ndarray | None = None) -> None:
        """Keep the features (F, D) of a recording; valid (F,) bool: which rows are a target, all by default. What is
        there already stays. It is on disk when its shard is full, and after `flush()`.

        Raises StoreError for another shape, no rows, and values that are not finite or too large for float16.
        """
        rows = np.asarray(features.detach().cpu() if isinstance(features, Tensor) else features, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.dim or not len(rows):
            raise StoreError(f"features are {rows.shape}: they must be (F, {self.dim}) with at least one row")
        if valid is not None:
            valid = np.asarray(valid.cpu() if isinstance(valid, Tensor) else valid)
            if valid.shape != rows.shape[:1] or valid.dtype != bool:
                raise StoreError(f"valid is {valid.dtype} {valid.shape}: it must be bool ({len(rows)},)")
            rows = np.where(valid[:, None], rows, np.float32(0))
            valid = None if valid.all() else valid
        if not np.isfinite(rows).all() or np.abs(rows).max() > LARGEST:
            raise StoreError(f"the features hold NaN, infinity or numbers above {LARGEST:g}: float16 cannot keep them")
        if key in self:
            return
        rows = self._encoded(rows, valid) if self.quantizer is not None else rows.astype(np.float16)
        self._put(key, Pending(rows, valid))
        if self.bytes_per_frame is not None and self.quantizer is None:
            if sum(len(entry.rows) for entry in self._pending.values()) >= FIT_ROWS:
                self._fit()
        elif self._pending_bytes >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet. Raises StoreError where it is too little to fit a quantizer to."""
        if not self._pending:
            return
        if self.bytes_per_frame is not None and self.quantizer is None:
            self._fit()
        from safetensors.numpy import save

        tensors = {}
        for key, (rows, valid) in self._pending.items():
            tensors[key] = np.ascontiguousarray(rows)
            if valid is not None:
                tensors[key + VALID] = valid
        facts = {"error": repr(self._error), "power": repr(self._power)}
        if self.quantizer is not None:
            facts["quantizer"] = self.quantizer.id
        put_info(self.path, self._info())
        shard = self.path / f"{len(shards(self.path)):05d}-{secrets.token_hex(4)}.safetensors"
        put(shard, save(tensors, facts))
        for key, (rows, _) in self._pending.items():
            self._places[key] = Place(shard, len(rows))
        self._written_error, self._written_power = self._written_error + self._error, self._written_power + self._power
        self._error = self._power = 0.0
        self._pending, self._pending_bytes = {}, 0

    @property
    def ready(self) -> bool:
        """Whether `flush()` can write: a compressed store needs FIT_ROWS rows first, or all there will be."""
        return self.bytes_per_frame is None or self.quantizer is not None

    def _put(self, key: str, entry: Pending) -> None:
        self._pending[key] = entry
        self._pending_bytes += entry.rows.nbytes
        self._places[key] = Place(None, len(entry.rows))

    def _encoded(self, rows: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
        """rows (F, D) to codes (F, K) uint8."""
        codes = self.quantizer.encode_bytes(torch.from_numpy(rows))
        lost = rows - self.quantizer.decode_bytes(codes).numpy()
        there = rows - self.quantizer.mean.numpy()
        if valid is not None:
            lost, there = lost[valid], there[valid]
        self._error += float(np.square(lost, dtype=np.float64).sum())
        self._power += float(np.square(there, dtype=np.float64).sum())
        return codes.numpy()

    def _fit(self) -> None:
        """Fit the quantizer to the rows that wait, and encode them."""
        from quantizers import fit_mvq

        waiting, self._pending, self._pending_bytes = self._pending, {}, 0
        known = [rows if valid is None else rows[valid] for rows, valid in waiting.values()]
        try:
            self.quantizer = fit_mvq(torch.from_numpy(np.concatenate(known)).float(), self.bytes_per_frame)
        except ValueError as error:
            self._pending = waiting
            raise StoreError(f"a quantizer cannot be fitted: {error}") from None
        put_info(self.path, self._info())
        put_quantizer(self.path, self.quantizer)
        for key, (rows, valid) in waiting.items():
            self._put(key, Pending(self._encoded(rows.astype(np.float32), valid), valid))

    # What is there

    def _info(self) -> dict[str, Any]:
        return {
            "version": VERSION, "name": self.name, "frame_rate": self.frame_rate, "dim": self.dim,
            "fingerprint": self.fingerprint, "bytes_per_frame": self.bytes_per_frame,
        }

    def _open_existing(self) -> None:
        self._places: dict[str, Place] = {}
        self._written_error = self._written_power = 0.0
        if not (self.path / INFO).is_file():
            return
        there, wanted = read_info(self.path), self._info()
        for name, value in wanted.items():
            if there[name] != value:
                raise StoreError(f"{self.path} has {name} {there[name]!r}, not {value!r}: choose another folder")
        self.quantizer = load_quantizer(self.path, self.dim, self.bytes_per_frame)
        mark = self.quantizer.id if self.quantizer is not None else None
        for shard in shards(self.path):
            header = read_header(shard)
            facts = header.pop("__metadata__", {})
            if facts.get("quantizer") != mark:
                raise StoreError(f"{shard} was coded with another quantizer than {QUANTIZER}: delete it and run again")
            self._written_error += float(facts.get("error", 0))
            self._written_power += float(facts.get("power", 0))
            for key, entry in header.items():
                if not key.endswith(VALID):
                    self._places.setdefault(key, Place(shard, entry["shape"][0]))


def content_key(samples: np.ndarray) -> str:
    """What a recording is known by: the SHA-256 of its mono int16 samples (T,) at 16 kHz."""
    if samples.dtype != np.int16 or samples.ndim != 1:
        raise StoreError(
            f"samples are {samples.dtype} {samples.shape}: a recording is known by its mono int16 samples at 16 kHz"
        )
    return hashlib.sha256(samples.astype("<i2", copy=False).tobytes()).hexdigest()
