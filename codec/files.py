"""Recordings to .tok files and back, block by block: a ten-hour file takes the memory of a ten-second one.

What comes out is bit for bit what `model.encode(normalize=True)` and `model.decode` make of the whole recording, because the
network sees blocks of the same shapes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from codec.allocation import variable_of
from codec.audio import AudioReader, AudioWriter, LostBand, Normalizer, Resampler, correction
from codec.config import ConfigError
from codec.container import TokReader, TokWriter
from codec.correction import Correction
from codec.entropy import Prior
from codec.heap import trim
from codec.coding import push_frames
from codec.model import Codec
from codec.refinement import check as check_refinement, encoding
from codec.stream import Stream, as_samples
from codec.tokens import TokenSpec, frames_for

Source = str | os.PathLike[str] | BinaryIO  # a path, `-` for a pipe, or an open binary file
Progress = Callable[[float, "float | None"], None]  # seconds of audio done, seconds in all where known


@dataclass(frozen=True)
class EncodeReport:
    """What `encode_file` has done.

    `seconds` of audio, `bitrate` nominal bit/s of all channels (what was asked for where it is variable), `size` in bytes (None for a
    pipe), `elapsed` seconds, `note` is a line for the user when much of the energy lies above the model's band.
    """

    sample_rate: int
    channels: int
    num_samples: int
    num_frames: int
    num_codebooks: int
    bitrate: float
    size: int | None
    elapsed: float
    note: str | None

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate


@dataclass(frozen=True)
class DecodeReport:
    """What `decode_file` has done.

    `lost` are the (start, stop) in seconds that salvage has filled with silence; not `complete`: the end was missing,
    and nobody knows how much came after `seconds`.
    """

    sample_rate: int
    channels: int
    num_samples: int
    num_frames: int
    num_codebooks: int
    elapsed: float
    complete: bool
    lost: tuple[tuple[float, float], ...]

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate


def encode_file(
    model: Codec,
    source: Source,
    target: Source,
    num_codebooks: int | None = None,
    bitrate: float | None = None,
    progress: Progress | None = None,
    beam: int | None = None,
    prior: Prior | None = None,
    refine: int = 0,
    variable: bool = False,
    normalize: bool = True,
) -> EncodeReport:
    """Encode a recording of any rate, channels and format that soundfile reads into a .tok file, in constant memory.

    Args:
        source: a path, `-` for standard input, or an open binary file.
        target: a path (appears whole or not at all), `-` for standard output, or an open binary file.
        num_codebooks, bitrate: quality; all codebooks by default. `bitrate` in bit/s for each channel.
        progress: is told (seconds done, seconds in all or None) after every block.
        beam, refine: as in `Codec.encode`.
        prior: of the model, for entropy coding (`codec.entropy.prior_of`).
        variable: spend bits where they are heard, as the prior counts them (`variable` of `Codec.encode`).
        normalize: as in `Codec.encode`; the recording is read twice where the model names a level.

    Raises ValueError (AudioError for bad audio) and OSError (WriteError) with a line that says what to do.
    """
    start = time.perf_counter()
    model.check_dtype()
    if variable and prior is None:
        raise ValueError("variable=True needs the prior that bits are counted by: give prior=codec.entropy.prior_of(NAME, variable=True)")
    spent = variable_of(model, num_codebooks, bitrate, prior if variable else None)
    k = model.num_codebooks if spent else model.codebooks_for(num_codebooks, bitrate)
    model.quantizer.check_beam(beam)
    if refine:
        check_refinement(model, refine)
    refuse_same_file(source, target)
    with AudioReader(source) as reader:
        rate, channels = reader.sample_rate, reader.channels
        total = None if reader.num_samples is None else reader.num_samples / rate
        band = LostBand(rate, model.sample_rate, model.config.name)
        samples = frames = 0

        def at_model_rate() -> Iterator[np.ndarray]:  # (channels, n)
            nonlocal samples
            resampler = Resampler(rate, model.sample_rate, channels)
            normalizer = Normalizer(done, model.sample_rate)
            for block in reader.blocks():
                samples += block.shape[1]
                resampled = resampler.process(block)
                band.update(block, resampled)
                yield normalizer.process(resampled)
            resampled = resampler.flush()
            band.update(block[:, :0], resampled)
            yield normalizer.process(resampled)

        asked, done = float(bitrate) if spent else None, Correction()
        if normalize and model.normal is not None:
            done = correction(reader.blocks(), rate, channels, model.normal)
            reader.rewind()
        with TokWriter(target, model.spec, k, rate, channels, prior, asked, done) as writer, torch.no_grad():
            coding = encoding(model, channels, k, beam, refine, spent, done.eq_db)
            for block in cut(at_model_rate(), push_frames(model.encoder) * model.frame_size):
                codes = coding.push(as_samples(torch.from_numpy(block).unsqueeze(1)).to(model.device))  # (channels, K, m)
                writer.write(codes)
                frames += codes.shape[2]
                trim()
                if progress is not None:
                    progress(frames / model.frame_rate, total)
            codes = coding.finish()  # the last frame, and what an encoder that looks ahead still holds
            writer.write(codes)
            frames += codes.shape[2]
            writer.finish(samples)
    return EncodeReport(
        sample_rate=rate, channels=channels, num_samples=samples, num_frames=frames, num_codebooks=k,
        bitrate=(bitrate if spent else model.bitrate(k)) * channels, size=file_size(target), elapsed=time.perf_counter() - start,
        note=band.note(),
    )


def decode_file(
    model: Codec | None, source: Source, target: Source, salvage: bool = False, progress: Progress | None = None,
    prior: Prior | None = None,
) -> DecodeReport:
    """Decode a .tok file to audio with the rate, channels and number of samples of what was encoded.

    Args:
        model: the one that made the tokens, or one with the same codebooks; None loads the one that the file names.
        source: a path, `-` for standard input, or an open binary file.
        target: a path (appears whole or not at all; the format follows its name), `-` for standard output, or a file.
        salvage: decode what is left of a damaged file; what is lost becomes silence.
        progress: is told (seconds done, None) after every block.
        prior: of the model, for entropy-coded files of models that are not in the box.

    Raises ValueError (TokError for a bad file) and OSError (WriteError) with a line that says what to do.
    """
    refuse_same_file(source, target)
    with TokReader(source, salvage=salvage, prior=prior) as reader:
        return decode_reader(load_for(reader.spec) if model is None else model, reader, target, progress)


def decode_reader(
    model: Codec, reader: TokReader, target: Source, progress: Progress | None = None
) -> DecodeReport:
    """`decode_file` for a .tok file that is open already."""
    start = time.perf_counter()
    model.check(reader.spec)
    rate, channels = reader.sample_rate, reader.channels
    resampler = Resampler(model.output_sample_rate, rate, channels)
    written = 0
    with AudioWriter(target, rate, channels) as writer:
        for block in decoded(model, reader):
            block = resampler.process(block)
            writer.write(block)
            written += block.shape[1]
            if progress is not None:
                progress(written / rate, None)
        rest = resampler.flush()[:, : reader.num_samples - written]
        writer.write(np.pad(rest, ((0, 0), (0, reader.num_samples - written - rest.shape[1]))))
    per_second = reader.spec.frame_rate
    return DecodeReport(
        sample_rate=rate, channels=channels, num_samples=reader.num_samples,
        num_frames=frames_for(reader.num_samples, rate, reader.spec), num_codebooks=reader.num_codebooks,
        elapsed=time.perf_counter() - start, complete=reader.complete,
        lost=tuple((a / per_second, b / per_second) for a, b in reader.lost),
    )


def decoded(model: Codec, reader: TokReader) -> Iterator[np.ndarray]:
    """The audio (channels, n) of a .tok file at the decoder's rate, block by block, lost frames muted."""
    size, position = model.output_frame_size, 0  # position: of the first sample that is held
    last = size * reader.spec.frame_multiple  # samples of the last frames, which may be longer than the audio, as its end tells
    held, undoing = np.zeros((reader.channels, 0), dtype=np.float32), Normalizer(reader.header.correction, model.output_sample_rate, undo=True)

    def hold(wav: torch.Tensor) -> np.ndarray:
        new = undoing.process(wav.cpu().numpy()[:, 0])  # (channels, n)
        return np.concatenate([held, mute(new, position + held.shape[1], reader.lost, size)], axis=1)

    model.check_dtype()
    with Stream(model, reader.channels, model.num_codebooks) as stream:
        for codes in cut((codes for _, codes in reader.blocks()), push_frames(model.decoder)):
            held = hold(stream.decode(torch.from_numpy(codes)))
            trim()
            ready = max(0, held.shape[1] - last)
            yield held[:, :ready]
            held, position = held[:, ready:], position + ready
        held = hold(stream.flush_decoder())
    length = -(-reader.num_samples * model.output_sample_rate // reader.sample_rate)  # rounded up
    yield held[:, : length - position]


def cut(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Arrays (..., n) of any n to arrays of exactly `size`, and a shorter one at the end if something is left."""
    waiting: list[np.ndarray] = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += block.shape[-1]
        if count >= size:
            joined = np.concatenate(waiting, axis=-1)
            whole = count - count % size
            for start in range(0, whole, size):
                yield joined[..., start : start + size]
            waiting, count = [joined[..., whole:].copy()], count - whole
    if count:
        yield np.concatenate(waiting, axis=-1)


def mute(wav: np.ndarray, start: int, lost: Iterable[tuple[int, int]], frame_size: int) -> np.ndarray:
    """Samples (channels, n), of which the first is number `start`, with the lost frames (first, end) set to zero."""
    for first, end in lost:
        a, b = first * frame_size - start, end * frame_size - start
        if a < wav.shape[1] and b > 0:
            wav = wav.copy()
            wav[:, max(a, 0) : b] = 0
    return wav


def load_for(spec: TokenSpec, device: str = "cpu", without: str | None = None) -> Codec:
    """The model in the box that tokens name. A name from a file is never taken as a path or a hub id. without: see `codec.load`."""
    from codec import hub

    if spec.name not in hub.models():
        raise ConfigError(
            f"the tokens were made by model {spec.name!r}, which is not in the box: "
            "say where it is with --model DIR (in Python: model=)"
        )
    return hub.load(spec.name, device, without)


def refuse_same_file(source: Source, target: Source) -> None:
    """Raise ValueError when the output would be written over the input."""
    if hasattr(source, "read") or hasattr(target, "write"):
        return
    try:
        same = os.path.samefile(source, target)
    except OSError:  # one of them does not exist
        return
    if same:
        raise ValueError(f"{target} is the input itself: name another output")


def file_size(target: Source) -> int | None:
    if hasattr(target, "write") or str(target) == "-" or not Path(target).is_file():
        return None
    return Path(target).stat().st_size
