"""Raw samples on a pipe to codes on a pipe, and back, as they come: what is said at one end is heard at the other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch

from codec.atomic import Output
from codec.audio import Normalizer, Resampler
from codec.container import TokError, TokReader, TokWriter
from codec.model import Codec

FORMATS = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}
READ = 1 << 16  # bytes that are taken at once where so many are there


@dataclass(frozen=True)
class LiveReport:
    """What has passed: `seconds` of audio at `sample_rate` Hz, and `rest` bytes of a sample that was cut at the end."""

    sample_rate: int
    num_samples: int
    num_frames: int
    rest: int = 0

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate


def encode_live(
    model: Codec, source: BinaryIO, target: str | os.PathLike[str] | BinaryIO, format: str = "s16le",
    sample_rate: int | None = None, num_codebooks: int | None = None,
) -> LiveReport:
    """Mono samples without a header to a .tok stream, which holds every frame as soon as its last sample is there.

    Args:
        source: its `read1(n)` waits for bytes and gives at most n of them; none are its end.
        target: a path, `-` for standard output, or an open binary file.
        format: s16le or f32le, full scale at 1.
        sample_rate: of the samples, in Hz; the model's by default. The stream names it, and decoding gives it back.
        num_codebooks: all by default.

    Raises ValueError for samples that are not finite, and OSError (WriteError) when the output cannot be written.
    """
    dtype, rate = FORMATS[format], model.sample_rate if sample_rate is None else sample_rate
    resampler = Resampler(rate, model.sample_rate, 1)
    samples = frames = 0
    rest = b""
    with model.stream(1, num_codebooks) as stream, \
            TokWriter(target, model.spec, stream.num_codebooks, rate, 1) as writer:
        writer.flush()  # the header: a decoder may load the model

        def write(codes: torch.Tensor) -> None:
            nonlocal frames
            frames += codes.shape[2]
            if codes.shape[2]:
                writer.write(codes)
                writer.flush()

        while data := source.read1(READ):
            data = rest + data
            whole = len(data) // dtype.itemsize * dtype.itemsize
            rest = data[whole:]
            wav = pcm_floats(np.frombuffer(data[:whole], dtype))[None]
            samples += wav.shape[1]
            write(stream.encode(torch.from_numpy(resampler.process(wav))[None]))
        write(stream.encode(torch.from_numpy(resampler.flush())[None]))
        write(stream.flush())
        writer.finish(samples)
    return LiveReport(rate, samples, frames, len(rest))


def decode_live(
    model: Codec, reader: TokReader, target: str | os.PathLike[str] | BinaryIO, format: str = "s16le"
) -> LiveReport:
    """A .tok stream to mono samples without a header, at the rate of what was encoded, as its blocks come.

    The samples are as many as were encoded; up to a frame more where the model's decoder has no delay that would tell before
    the last frame is out. What lies beyond full scale is clipped in s16le.

    Raises ValueError for a stream of another model or of several channels; TokError for one that is damaged or cut short,
    when all of what is whole has been written, and OSError (WriteError) when the output cannot be written.
    """
    model.check(reader.spec)
    if reader.channels != 1:
        raise ValueError(f"{reader.name}: holds {reader.channels} channels, a live stream has one: use codec decode")
    resampler, undoing = Resampler(model.output_sample_rate, reader.sample_rate, 1), Normalizer(reader.header.correction, model.output_sample_rate, undo=True)
    output, decoded, written, frames = Output(target), 0, 0, 0
    try:
        with model.stream(1) as stream:

            def write(wav: torch.Tensor, last: bool = False) -> None:
                nonlocal decoded, written
                if last:  # the signal may end before its last frame does
                    total = -(-reader.num_samples * model.output_sample_rate // reader.sample_rate)
                    wav = wav[..., : max(0, total - decoded)]
                decoded += wav.shape[2]
                wav = resampler.process(undoing.process(wav[0].cpu().numpy()))  # (1, n)
                if last:
                    wav = np.concatenate([wav, resampler.flush()], 1)[:, : max(0, reader.num_samples - written)]
                    wav = np.pad(wav, ((0, 0), (0, max(0, reader.num_samples - written - wav.shape[1]))))
                written += wav.shape[1]
                if wav.shape[1]:
                    output.write(pcm_bytes(wav, FORMATS[format]))
                    output.flush()

            error = None
            try:
                for _, codes in reader.blocks():
                    frames += codes.shape[2]
                    write(stream.decode(torch.from_numpy(codes)))
            except TokError as damage:
                error = damage
            else:
                write(stream.flush_decoder(), last=True)
        if error is not None:
            raise error
        output.commit()
    finally:
        output.discard()
    if not reader.complete:
        raise TokError(f"{reader.name}: ends without its end block, after {frames / reader.spec.frame_rate:.2f} s: "
                       "what sent it was stopped")
    return LiveReport(reader.sample_rate, written, frames)


def pcm_floats(samples: np.ndarray) -> np.ndarray:
    """Samples of a format as float32, full scale at 1."""
    wav = samples.astype(np.float32)
    return wav / 32768 if samples.dtype.kind == "i" else wav


def pcm_bytes(wav: np.ndarray, dtype: np.dtype) -> bytes:
    """Floats as samples of a format; what lies beyond full scale is clipped in whole numbers."""
    if dtype.kind == "i":
        wav = np.clip(np.rint(wav * 32768.0), -32768, 32767)
    return wav.astype(dtype).tobytes()
