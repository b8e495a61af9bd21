"""One shard: recordings in, files of codes and a record of them out. The same recordings make the same bytes.

Short recordings are coded in batches of like lengths, long ones in parts, so memory does not grow with length. Codes are those
of `model.encode` either way.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from codec.atomic import WriteError
from codec.audio import Resampler
from codec.coding import Encoding, push_frames
from codec.corpus.formats import FORMATS, Writer
from codec.corpus.inputs import Audio, Input, opened
from codec.corpus.plan import SHARDS, Plan, write_json
from codec.files import cut
from codec.model import Codec
from codec.tokens import frames_for

LONG = 60  # seconds: longer recordings are coded in parts
POOL = 300  # seconds of short recordings that wait to be coded together
BATCH = {"cpu": 20, "cuda": 600}  # seconds of a batch, with padding: little keeps a core busy

Tell = Callable[[str, Any], None]  # "reading", number in the shard; "coding", None; "done", (recordings, bytes, seconds)


@dataclass
class _Short:
    """A recording that waits: samples (channels, n) at the model's rate."""

    item: Input
    wav: np.ndarray
    sample_rate: int
    num_samples: int


def record_path(folder: Path, number: int) -> Path:
    """Of a shard: where it is there and its files are, the shard is done."""
    return folder / SHARDS / f"{number:05d}.json"


def read_record(folder: Path, number: int) -> dict[str, Any] | None:
    """The record of a shard, or None where it is not done."""
    path = record_path(folder, number)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        whole = all((path.parent / name).stat().st_size == file["bytes"] for name, file in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None


def write_shard(
    model: Codec, plan: Plan, folder: Path, number: int, inputs: list[Input], tell: Tell,
    crashed: dict[int, str] | None = None,
) -> None:
    """Code the recordings of a shard and write its files, then its record.

    crashed: recordings, by their numbers in the shard, that are left out, and why.
    Recordings that cannot be read are named in the record. Raises WriteError when the files cannot be written.
    """
    stem = folder / SHARDS / f"{number:05d}"
    writer = FORMATS[plan.settings.format](stem, plan.header)
    work = _Shard(model, plan, writer, tell)
    try:
        for index, item in enumerate(inputs):
            tell("reading", index)
            try:
                if crashed and index in crashed:
                    raise ValueError(crashed[index])
                work.take(item)
            except WriteError:
                raise
            except (ValueError, OSError) as error:
                work.refuse(item, error)
        work.flush()
        files = writer.commit()
    finally:
        writer.discard()
    write_json(record_path(folder, number), {
        "shard": number, "inputs": len(inputs), "rows": work.rows, "frames": work.frames, "seconds": round(work.seconds, 6),
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files},
        "quarantined": work.refused,
    })


class _Shard:
    def __init__(self, model: Codec, plan: Plan, writer: Writer, tell: Tell):
        self._model, self._plan, self._writer, self._tell = model, plan, writer, tell
        self._k, self._beam = plan.settings.num_codebooks, plan.settings.beam
        self._rate = model.sample_rate
        self._waiting: list[_Short] = []
        self._pooled = 0  # samples that wait
        self.rows = self.frames = 0
        self.seconds = 0.0
        self.refused: list[dict[str, str]] = []

    def refuse(self, item: Input, error: Exception) -> None:
        reason = str(error) if isinstance(error, ValueError) else error.strerror or str(error)
        self.refused.append({"path": item.name, "reason": " ".join(reason.removeprefix(f"{item.file}: ").split())})
        self._tell("done", (1, item.size, 0.0))

    def take(self, item: Input) -> None:
        with opened(item) as audio:
            channels = 1 if self._plan.settings.mono else audio.channels
            blocks, counted = self._at_model_rate(audio, channels)
            held, size = [], 0
            for block in blocks:
                held.append(block)
                size += block.shape[1]
                if size > LONG * self._rate:
                    self.flush()
                    self._long(item, audio, channels, held, blocks, counted)
                    return
        self._waiting.append(_Short(item, np.concatenate(held, axis=1), audio.sample_rate, counted[0]))
        self._pooled += size * channels
        if self._pooled >= POOL * self._rate:
            self.flush()

    def _at_model_rate(self, audio: Audio, channels: int) -> tuple[Iterator[np.ndarray], list[int]]:
        """Blocks (channels, n), and a list of the number of samples that were read."""
        counted = [0]

        def blocks() -> Iterator[np.ndarray]:
            resampler = Resampler(audio.sample_rate, self._rate, channels)
            for block in audio.blocks:
                counted[0] += block.shape[1]
                yield resampler.process(block.mean(axis=0, keepdims=True) if channels < len(block) else block)
            yield resampler.flush()

        return blocks(), counted

    def _long(
        self, item: Input, audio: Audio, channels: int, held: list[np.ndarray], rest: Iterator[np.ndarray],
        counted: list[int],
    ) -> None:
        """In parts; codes wait on disk until the end has been read, which may be missing."""
        model = self._model
        coding = Encoding(model, channels, self._k, self._beam)

        def blocks() -> Iterator[np.ndarray]:
            while held:
                yield held.pop(0)
            yield from rest

        with tempfile.TemporaryFile() as file:
            def keep(codes: torch.Tensor) -> None:
                part = codes.cpu().numpy().transpose(2, 0, 1)  # (n, channels, K)
                try:
                    file.write(np.ascontiguousarray(part, "<u2").tobytes())
                except OSError as error:
                    raise WriteError("a temporary file", error) from error

            with torch.no_grad():
                for block in cut(blocks(), push_frames(model.encoder) * model.frame_size):
                    keep(coding.push(torch.from_numpy(block).unsqueeze(1).to(model.device)))
                    self._tell("done", (0, 0, block.shape[1] / self._rate))
                keep(coding.finish())
            for channel in range(channels):
                parts = _channel(file, channel, channels, self._k)
                self._add(item, audio.sample_rate, counted[0], channel, channels, parts)
        self._tell("done", (1, item.size, 0.0))

    def flush(self) -> None:
        """Code and write what waits."""
        waiting, self._waiting, self._pooled = self._waiting, [], 0
        if not waiting:
            return
        self._tell("coding", None)
        rows = [(number, channel) for number, short in enumerate(waiting) for channel in range(len(short.wav))]
        rows.sort(key=lambda row: waiting[row[0]].wav.shape[1])  # stable: ties stay in order
        codes: dict[tuple[int, int], np.ndarray] = {}  # of each row, (frames, K)
        lengths = [waiting[number].wav.shape[1] for number, _ in rows]
        for batch in _batches(rows, lengths, BATCH[self._model.device.type] * self._rate):
            codes |= zip(batch, self._encode([waiting[number].wav[channel] for number, channel in batch]))
        for number, short in enumerate(waiting):
            channels = len(short.wav)
            for channel in range(channels):
                parts = [codes[number, channel]]
                self._add(short.item, short.sample_rate, short.num_samples, channel, channels, parts)
            self._tell("done", (1, short.item.size, short.num_samples / short.sample_rate))

    def _encode(self, wavs: list[np.ndarray]) -> list[np.ndarray]:
        lengths = [len(wav) for wav in wavs]
        padded = torch.zeros(len(wavs), 1, max(lengths))
        for row, wav in zip(padded, wavs):
            row[0, : len(wav)] = torch.from_numpy(wav)
        codes = self._model.encode_frames(padded.to(self._model.device), self._k, lengths, self._beam).cpu().numpy()
        size = self._model.frame_size * self._model.quantizer.frame_multiple
        frames = [-(-length // size) * self._model.quantizer.frame_multiple for length in lengths]
        return [row[:, :n].T.astype("<u2") for row, n in zip(codes, frames)]

    def _add(self, item: Input, rate: int, samples: int, channel: int, channels: int, parts: Any) -> None:
        frames = frames_for(samples, rate, self._plan.spec)
        row = {"path": item.name, "channel": channel, "channels": channels, "sample_rate": rate, "num_samples": samples,
               "seconds": round(samples / rate, 6), "frames": frames}
        meta = dict(item.meta or {})
        if isinstance(meta.get("text"), str):
            row["text"] = meta.pop("text")
        if meta:
            row["meta"] = meta
        self._writer.add(row, parts)
        self.rows += 1
        self.frames += frames
        self.seconds += samples / rate if channel == 0 else 0.0


def _batches(rows: list[Any], lengths: list[int], most: int) -> Iterator[list[Any]]:
    """Rows of rising lengths in batches of at most so many samples, padding included."""
    batch: list[Any] = []
    for row, length in zip(rows, lengths):
        if batch and (len(batch) + 1) * length > most:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _channel(file: BinaryIO, channel: int, channels: int, codebooks: int) -> Iterator[np.ndarray]:
    """The codes of one channel (n, K), from the start on."""
    file.seek(0)
    while data := file.read((1 << 16) * channels * codebooks * 2):
        yield np.frombuffer(data, "<u2").reshape(-1, channels, codebooks)[:, channel]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
